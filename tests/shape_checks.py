"""The checker behind every signature of the package while tests run: beartype, less strict in two places.

An int may stand where a float is asked for, as mypy allows it; and ``Self`` is not checked, because jaxtyping hands
methods over one by one, without the class that beartype would need.
"""

from typing import Any, Self

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(thing):
    hints = getattr(thing, "__annotations__", {})
    hints.update({name: Any for name, hint in hints.items() if hint is Self or hint == "Self"})
    return _beartype(thing)
