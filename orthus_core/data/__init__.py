"""Data sets: texts and pictures on disk become rows of tokens that a model can be trained on."""
