"""Many inputs: find them, name their outputs, group them by shape, share them among ranks, give results back in order.

files, folders, globs, manifest --inputs--> items --outputs--> jobs --run--> results and failures
"""
