"""The `orthus` command: only Typer at import time, everything heavy inside its commands."""
