"""SPICE by its Java program, and a native metric of the same design."""
