"""Arithmetic on tensors: paths, schedules, samplers, guidance, noise. It knows no network and no config."""
