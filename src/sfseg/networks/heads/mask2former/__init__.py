"""Mask2Former (Cheng et al., CVPR 2022): a head of queries, each with a class and a mask."""
