"""The checks of `device.py`."""
