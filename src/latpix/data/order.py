"""Which samples make which step: an order that (seed, epoch) alone decides, in batches of one shape.

In each epoch the samples are shuffled and queue up by bucket; whenever a bucket holds a full batch, that is the next
step. What is left over at the end is filled up with the first samples of its bucket, so that every sample is seen in
every epoch, all batches are full, and every epoch has the same number of steps. So a step's number says all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from latpix.errors import OptionError


@dataclass(frozen=True)
class Place:
    """Where a step stands."""

    epoch: int
    within: int  # number of the step in its epoch


class Order:
    """The steps of a data set without end."""

    def __init__(self, buckets: Sequence[str], *, batch: int, seed: int) -> None:
        if batch < 1:
            raise OptionError(f"a batch of {batch} samples makes no sense; expected 1 or more.")
        self.batch, self.seed = batch, seed
        names, self._bucket = np.unique(np.array(buckets), return_inverse=True)
        counts = np.bincount(self._bucket, minlength=len(names))
        self.steps_per_epoch = int(sum(-(-count // batch) for count in counts))
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def place(self, step: int) -> Place:
        """The epoch of a step, and its number in it."""
        return Place(*divmod(step, self.steps_per_epoch))

    def samples(self, step: int) -> list[int]:
        """The numbers of a step's samples."""
        place = self.place(step)
        return self._epoch(place.epoch)[place.within]

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        shuffled = np.random.default_rng((self.seed, epoch)).permutation(len(self._bucket)).tolist()
        queues: dict[int, list[int]] = {}
        steps = []
        for sample in shuffled:
            queue = queues.setdefault(int(self._bucket[sample]), [])
            queue.append(sample)
            if len(queue) % self.batch == 0:
                steps.append(queue[-self.batch :])
        for queue in queues.values():
            if rest := len(queue) % self.batch:
                fill = [queue[place % len(queue)] for place in range(self.batch - rest)]
                steps.append(queue[-rest:] + fill)
        return steps
