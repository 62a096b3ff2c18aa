"""A statement about two images."""
