"""Trained networks as others find them: folders of plain files, here or on Hugging Face's hub."""
