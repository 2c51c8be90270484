"""The learning rate over a run: it rises in a straight line, stays, and may fall in a straight line at the end.

f(n) = 1e-6 + (1 - 1e-6) n / W   for updates n < W,   then 1;   over the last C steps times (steps left) / C
"""

START = 1e-6


def warm_up(update: int, length: int) -> float:
    """The factor on the learning rate at an update (the first is 0), for a warm-up of ``length`` updates."""
    return 1.0 if update >= length else START + (1 - START) * update / length


def cool_down(step: int, steps: int, length: int) -> float:
    """The factor at a step (the first is 0) of a run of ``steps`` whose last ``length`` fall towards 0."""
    return 1.0 if step < steps - length else (steps - step) / length
