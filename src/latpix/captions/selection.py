"""Which part of a prompt becomes the embedding of its caption.

    prefix + caption --tokens--> cut or padded to n + m - 2 --states--> those at [0, n-1, n, ..., n+m-3]

So: the first token (BOS), then the last m - 1 positions. They start at the prefix's last token, a lone space, which has
usually merged with the caption's first word. Padding is kept: the network reads its states too.

Letters: n tokens of the prefix alone, BOS included; m states of the embedding.
"""

from collections.abc import Sequence

LENGTH = 300  # m, of all released decoders


def padded_length(prefix_tokens: int, length: int = LENGTH) -> int:
    """Tokens that the encoder reads; without a prefix there is nothing to leave out."""
    return prefix_tokens + length - 2 if prefix_tokens else length


def select(prefix_tokens: int, length: int = LENGTH) -> list[int]:
    """The positions that are kept: ``length`` of them."""
    if not prefix_tokens:
        return list(range(length))
    return [0, *range(prefix_tokens - 1, prefix_tokens + length - 2)]


def fit(ids: Sequence[int], length: int, padding: int) -> tuple[list[int], list[int]]:
    """Ids cut or padded on the right to ``length``, and the mask that is 1 where they are a prompt's own."""
    own = list(ids[:length])
    rest = length - len(own)
    return own + [padding] * rest, [1] * len(own) + [0] * rest
