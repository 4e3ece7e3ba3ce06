"""Measures of the quality of a model."""
