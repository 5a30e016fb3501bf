"""One run and what it stands on: its folder, checkpoints, source model and restart."""
