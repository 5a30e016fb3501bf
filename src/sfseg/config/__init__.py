"""Configuration: how it is composed and built, and what it may name."""
