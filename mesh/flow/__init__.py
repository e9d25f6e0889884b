"""The way of a request through a node and the mesh."""
