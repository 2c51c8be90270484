"""The learning rate over a run: it rises in a straight line and stays.

f(n) = 1e-6 + (1 - 1e-6) n / W   for updates n < W,   then 1
"""

START = 1e-6


def warm_up(update: int, length: int) -> float:
    """The factor on the learning rate at an update (the first is 0), for a warm-up of ``length`` updates."""
    return 1.0 if update >= length else START + (1 - START) * update / length
