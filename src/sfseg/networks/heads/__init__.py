"""From features to logits of the classes."""
