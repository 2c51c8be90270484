"""Is everything there, and does this device compute what it should?"""
