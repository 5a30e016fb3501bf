"""Backbones, heads and the segmenter that joins them; free of configuration."""
