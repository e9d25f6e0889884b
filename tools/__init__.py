"""Programs for people; each runs as `python -m tools.NAME`."""
