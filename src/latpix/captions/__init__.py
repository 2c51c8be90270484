"""Captions: text in, the states that a decoder's caption stream reads out; encoded once, kept on disk.

text --prompt_prefix--> prompt --encoder (tokens, states, selection)--> embedding --cache--> provide
"""
