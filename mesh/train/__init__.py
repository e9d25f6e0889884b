"""Rounds of training."""
