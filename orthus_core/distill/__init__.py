"""Fewer calls of the diffusion head for the same picture."""
