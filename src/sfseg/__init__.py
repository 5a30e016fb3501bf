"""Source-free domain adaptation of segmentation models with PyTorch Lightning and Hydra."""

__version__ = "0.1.0"
