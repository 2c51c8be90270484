"""What a latent is: its spaces (a table), normalization, packing, noising, and the check of one that people give us."""
