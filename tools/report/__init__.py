"""Draws what `tools.loadgen` and `tools.compare` measured: `python -m tools.report`."""
