"""The command line: one file per command. A command parses, calls the public API, and prints.

torch is imported inside the commands' functions only, so that ``--help`` answers at once.
"""
