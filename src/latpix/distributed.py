"""Which of several processes this one is, as torchrun says in RANK, WORLD_SIZE and LOCAL_RANK.

Jobs are shared by item, so that no process needs to hear of another.
"""

import os
from collections.abc import Sequence
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

    def share(self, items: Sequence[T]) -> list[T]:
        """Every ``size``-th item from number ``rank`` on: each item falls to exactly one process."""
        return list(items[self.rank :: self.size])

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
