"""The model: configuration, soft embedding, diffusion head, noise schedule, vision autoencoder, and
Orthus itself.
"""
