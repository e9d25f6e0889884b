"""Measurements of the mesh beside its peers, each one command: `python -m bench` lists them."""
