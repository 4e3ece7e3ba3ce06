"""A small world made of sprites: endless rows to draw, ask, edit and tell, made from a seed."""
