"""Vectors and documents."""
