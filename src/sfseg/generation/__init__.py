"""Diffusion models: one learns a place, draws it, and what it has drawn is looked at."""
