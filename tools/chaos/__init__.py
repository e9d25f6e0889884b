"""Breaks a mesh of real processes in every way that it should survive, under load, and counts."""
