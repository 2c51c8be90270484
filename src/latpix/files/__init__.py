"""Latent files and picture files: the only place that knows file formats and 8-bit levels.

Nothing here knows a latent space or a checkpoint: what is checked is that a file is what it says it is.
"""
