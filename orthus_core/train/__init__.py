"""Training: one loop for every stage, and the stages themselves."""
