"""Weights from files: of runs, and as other projects name them."""
