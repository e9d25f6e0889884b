"""Who is measured: one module per server, each run by the Python that has its packages.

`python -m bench.contestants.NAME PORT` serves the model of `bench.mlp` on that port until it
is told to end. A module imports nothing of the mesh, except the mesh's own.
"""
