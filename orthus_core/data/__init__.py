"""Words and pictures on disk become rows a model can learn from."""
