"""Grounding and detection: boxes for the words of a text."""
