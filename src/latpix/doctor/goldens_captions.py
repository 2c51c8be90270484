"""Recompute caption goldens: which tokens are kept, and a tiny Gemma 2's states of them.

``synthetic`` cases are id sequences; the others are texts and a prefix, embedded by the model in the folder
``captions`` beside the files. Variants made with the soft cap on (``*_softcap``) are documentary.

Letters: n captions, l tokens of a padded prompt, m states of an embedding.
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.captions.encoder import CaptionEncoder
from latpix.captions.prompt_prefix import PREFIX
from latpix.captions.selection import fit, padded_length, select
from latpix.doctor.family import Case, Golden, exact, skip

EMBEDDING = 1e-4  # from the goldens' README; absolute and relative. Ids are exact.
OUR_PREFIX = "the full prefix of the specification"  # how the goldens write the released decoders' prefix


def run(golden: Golden) -> Iterator[Case]:
    """The selection of ids, then every prefix with the encoder."""
    for number, case in enumerate(golden.description.get("synthetic", [])):
        yield f"synthetic.{number}", _synthetic(case)
    cases = golden.description.get("cases", [])
    folder = golden.folder / golden.name
    if cases and find_spec("transformers") is None:
        skip(folder, 'captions need transformers: pip install "latpix[captions]"')
    elif cases and not folder.is_dir():
        skip(folder, "the encoder of the captions is missing beside them")
    elif cases:
        device = next(iter(golden.tensors.values())).device
        encoder = CaptionEncoder.load(folder, device=device, dtype=torch.float32)
        doubled = CaptionEncoder.load(folder, device="cpu", dtype=torch.float32).double()
        for case in cases:
            yield case["name"], max(_encoded(golden, case, encoder, doubled))
        encoder.close()
        doubled.close()


def _synthetic(case: dict[str, Any]) -> float:
    """One id sequence: padded or cut, then selected."""
    prefix_tokens, length = len(case["prefix_ids"]), case["max_length"]
    padding = next((one for one in case["padded_ids"][len(case["sequence_ids"]) :]), 0)
    ids, mask = fit(case["sequence_ids"], padded_length(prefix_tokens, length), padding)
    kept = select(prefix_tokens, length)
    pairs = {
        "padded_ids": ids,
        "selected_ids": [ids[k] for k in kept],
        "selected_mask": [mask[k] for k in kept],
    }
    return max(exact(torch.tensor(ours), torch.tensor(case[name])) for name, ours in pairs.items())


def _encoded(golden: Golden, case: dict[str, Any], encoder: CaptionEncoder, doubled: CaptionEncoder) -> Iterator[float]:
    """Every number that a case holds."""
    name, length, texts = case["name"], case["max_length"], golden.description["captions"]
    prefix = PREFIX if case["prefix"] == OUR_PREFIX else case["prefix"]
    prompts = encoder.tokens(texts, prefix=prefix, length=length)
    counts = [prompts.prefix_tokens, prompts.ids.shape[1]]
    yield exact(torch.tensor(counts), torch.tensor([case["prefix_tokens"], case["padded_length"]]))
    yield exact(torch.tensor(prompts.kept), torch.tensor(_positions(case["selected_positions"])))
    ours = {"ids": prompts.ids, "selected_ids": prompts.ids[:, prompts.kept], "mask": prompts.mask[:, prompts.kept]}
    for part, tensor in ours.items():
        if f"{name}.{part}" in golden.tensors:
            yield exact(tensor, golden.tensors[f"{name}.{part}"])
    expected = golden.tensors.get(f"{name}.embedding")
    if expected is not None:
        states, exact_states = (
            one.encode(texts[: len(expected)], prefix=prefix, length=length) for one in (encoder, doubled)
        )
        yield _beyond_rounding(states, expected, exact_states.to(expected.device))


def _beyond_rounding(
    states: Float[Tensor, "n m e"], expected: Float[Tensor, "n m e"], exact_states: Float[Tensor, "n m e"]
) -> float:
    """The error in units of the tolerance and of what float32 loses of a state.

    Logits without a cap are steep: of a few states of the long prompts rounding takes more than the tolerance, another
    amount on each processor; the goldens' own are up to 1.4 tolerances from double's. What it takes of ours is seen by
    their distance from double's, and two float32 results may differ by three of it.
    """
    lost = (states - exact_states).abs().amax(-1, keepdim=True)
    return float(((states - expected).abs() / (EMBEDDING * (1 + expected.abs()) + 3 * lost)).max())


def _positions(written: Sequence[Any]) -> list[int]:
    """Positions as the goldens write them: one by one, or [first, last]."""
    return [k for one in written for k in (range(one[0], one[1] + 1) if isinstance(one, list) else [one])]
