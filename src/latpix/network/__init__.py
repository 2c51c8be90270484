"""The denoiser: plain torch, no device named, no other layer needed."""
