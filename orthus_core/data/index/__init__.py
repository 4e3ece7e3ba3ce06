"""Where the records of large files lie, so that one of them can be read without the others."""
