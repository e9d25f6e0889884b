"""A small mesh that answers, generates and trains over a few ordinary machines."""
