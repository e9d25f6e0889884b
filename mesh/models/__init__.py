"""Arithmetic of models, and where their files come from."""
