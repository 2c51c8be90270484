"""Training: losses, photographs and the recipes that made the shipped weights."""
