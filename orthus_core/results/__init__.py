"""The results of drawing: file names, pictures with generation metadata, and stories."""
