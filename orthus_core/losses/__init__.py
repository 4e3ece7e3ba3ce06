"""The losses: text, diffusion, their sum, and the autoencoder's reconstruction."""
