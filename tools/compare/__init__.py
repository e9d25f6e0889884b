"""Measures several arrangements of one topology side by side: `python -m tools.compare`."""
