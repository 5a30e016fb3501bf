"""Drawn streets in two domains, with exact labels."""
