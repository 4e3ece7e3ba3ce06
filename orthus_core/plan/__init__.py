"""Before work begins: what this machine has, and what a drawing or a training will take of it."""
