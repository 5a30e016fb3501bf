"""Bookkeeping around training: progress, pictures, tables."""
