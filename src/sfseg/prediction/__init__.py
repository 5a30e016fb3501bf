"""Trained networks at work: pictures and videos in, classes out. See :func:`sfseg.load`."""
