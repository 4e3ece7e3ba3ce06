"""The four things a model does, as Python asks for them: draw, edit, tell and read."""
