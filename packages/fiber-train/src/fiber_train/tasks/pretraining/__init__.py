"""The coarse stage."""
