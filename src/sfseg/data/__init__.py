"""Images and labels: from files or drawn, to batches on the device."""
