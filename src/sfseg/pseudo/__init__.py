"""Pseudo-labels on disk: one state with the training run that reads and corrects them."""
