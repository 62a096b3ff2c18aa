"""METEOR 1.5, in Python by the tables of its program, or by the program itself."""
