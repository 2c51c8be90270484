"""Which of several processes this one is, as torchrun says in RANK, WORLD_SIZE and LOCAL_RANK.

Several jobs are shared by item, so that no process needs to hear of another; where there are fewer jobs than processes,
all make each one together (team.py).
"""

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from latpix.errors import UsageError

T = TypeVar("T")
_NAMES = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among its siblings."""

    rank: int = 0  # of all processes, on all machines
    size: int = 1  # how many there are
    local_rank: int = 0  # among those of this machine

    def share(self, items: Sequence[T], likeness: Callable[[T], Hashable] = lambda item: None) -> list[T]:
        """Every ``size``-th of the items that are alike, so that each process has some of all kinds.

        Args:
            items: of all processes, in one order; each item falls to exactly one.
            likeness: what items that cost the same have in common.
        """
        kinds: dict[Hashable, list[int]] = {}
        for place, item in enumerate(items):
            kinds.setdefault(likeness(item), []).append(place)
        dealt = [place for places in kinds.values() for place in places]
        return [items[place] for place in sorted(dealt[self.rank :: self.size])]

    def device(self, name: str) -> str:
        """The device of this process: siblings on one machine, all told ``auto`` or ``cuda``, take a GPU each."""
        import torch

        if self.size == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available():
            return name
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"


def ranks_of_torchrun() -> Ranks:
    """What the environment says; alone, where it says nothing.

    Raises:
        UsageError: the variables are no numbers, or contradict each other.
    """
    texts = {key: os.environ[name] for key, name in _NAMES.items() if name in os.environ}
    try:
        ranks = Ranks(**{key: int(text) for key, text in texts.items()})
    except ValueError:
        ranks = Ranks(size=0)
    if not 0 <= ranks.rank < ranks.size or ranks.local_rank < 0:
        said = ", ".join(f"{_NAMES[key]}={text}" for key, text in texts.items())
        raise UsageError(
            f"{said} is no place among processes; expected RANK from 0 to WORLD_SIZE - 1, as torchrun sets."
        )
    return ranks
