"""Bytes and messages between nodes, without a socket."""
