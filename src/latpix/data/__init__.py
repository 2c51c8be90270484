"""Training samples: which pictures, in which shapes, on disk as webdataset shards, and in a known order from there."""
