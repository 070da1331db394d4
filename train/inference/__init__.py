"""Predictions of a network, written into the store piece by piece, by one process or several."""
