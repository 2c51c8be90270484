"""Whose turn it is: one step of the student, then five of its critics, and so on.

Iteration 0 is the student's, when its critics have learned nothing yet; the discriminator's word starts at nothing and
grows. Source: DMD2, Yin et al. 2024, section 4.2 ("two time-scale update rule").
"""

EVERY = 6  # iterations of which one is the student's
GAN_WEIGHT = 0.05
GAN_WARM_UP = 100  # iterations of both kinds


def is_students_turn(iteration: int, every: int = EVERY) -> bool:
    """Whether an iteration (the first is 0) moves the student; else it moves the fake score and the discriminator."""
    return iteration % every == 0


def student_updates(iteration: int, every: int = EVERY) -> int:
    """Updates of the student before its present or coming one: what its warm-up and its average count by."""
    return iteration // every


def gan_weight(iteration: int, weight: float = GAN_WEIGHT, warm_up: int = GAN_WARM_UP) -> float:
    """The weight of the student's GAN loss, which counts iterations of both kinds."""
    return weight * min(iteration / warm_up, 1.0) if warm_up > 0 else weight
