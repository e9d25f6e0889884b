"""Measures a mesh, or any server of the same routes, from outside: `python -m tools.loadgen`."""
