"""How good a picture is: one file for each measure, all on pixels in [-1, 1]."""
