"""Checkpoints: what there is, how files are read, checked, converted and fetched."""
