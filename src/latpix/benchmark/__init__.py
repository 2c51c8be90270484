"""How fast and how large: the plain implementation to compare with, cases, measuring, reports."""
