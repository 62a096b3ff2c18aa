"""The fine stage: boxes for words."""
