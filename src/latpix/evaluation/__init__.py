"""Measures: how far a decode is from the picture that it stands for."""
