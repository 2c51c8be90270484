"""What a run moves through memory, operator by operator, and which attention it runs.

Every operator but a view reads its inputs and writes its outputs: that is what eager execution asks of memory, as
counted, not as measured; what stays in a cache is counted too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import sdpa_flop_count

# On a CPU the fused attention has a name of its own, which torch's operation counter does not know.
ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}


class Traffic(TorchDispatchMode):
    """Counts while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.attention: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = str(function)
        if "attention" in name and "backward" not in name:
            self.attention.add(name.split(".")[1].removeprefix("_scaled_dot_product_"))
        if not function.is_view:
            touched = tree_leaves((args, kwargs, out))
            self.bytes += sum(_size(value) for value in touched if isinstance(value, Tensor))
        return out

    def now(self) -> int:
        """Bytes so far: laps may be taken with this instead of a clock."""
        return self.bytes

    def wait(self) -> None:
        """Nothing to wait for."""

    def between(self, start: int, end: int) -> float:
        """Bytes."""
        return float(end - start)

    @property
    def backend(self) -> str:
        """The attention that ran; ``none`` where torch's own fused ones did not."""
        return ", ".join(sorted(self.attention)) or "none"


def _size(tensor: Tensor) -> int:
    """Bytes; those of an expanded tensor are counted once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
