"""What a node can do; one role, one file."""
