"""The version, in the one place that packaging, checkpoints and pictures read it from."""

__version__ = "0.1.0"
