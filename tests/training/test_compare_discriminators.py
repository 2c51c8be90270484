from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from latpix.backbones.codec import Codec
from latpix.checkpoints.load import save
from latpix.checkpoints.registry import find
from latpix.network.model import build
from latpix.training.compare_discriminators import Features, compare, make_heads, share_right
from latpix.training.tiny_pairs import TinyPairs


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Of a small teacher with fresh weights, whose base pictures are noise."""
    row = find("flux2-tiny")
    small = replace(
        row.network, width=32, depth=2, pixel_attention_width=16, latent_width=16, latent_depth=1,
        base_widths=(8, 8, 8, 8), base_blocks=(1, 1, 1, 1),
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "small.safetensors"
    save(build(small), replace(row, network=small), path)
    data = TinyPairs(None, Codec.load("flux2-lite", device="cpu"), size=64, seed=0)
    return Features(data, path, batch=2)


def test_both_heads_begin_alike_and_learn_on_their_own(features):
    heads = make_heads(features.painter.network.config.width)
    first, same = (parameters_to_vector(head.parameters()).detach().clone() for head in heads.values())
    assert torch.equal(first, same)
    told = dict(compare(features, heads, updates=4, every=4))
    pooled, patch = (parameters_to_vector(head.parameters()) for head in heads.values())
    assert not torch.equal(pooled, first)
    assert not torch.equal(patch, first)
    assert not torch.equal(pooled, patch)
    assert list(told) == [0, 4]
    assert told[0]["pooled"] == told[0]["patch"]
    assert all(0 <= share <= 1 for shares in told.values() for share in shares.values())


def test_a_crop_is_noised_alike_in_both_pictures_and_anew_at_each_step(features):
    first, again, other = features(3), features(3), features(4)
    assert torch.equal(first[0][0], again[0][0])
    assert not torch.equal(first[0][0], other[0][0])
    assert not torch.equal(first[0][0], first[1][0])


def test_the_share_counts_photographs_that_are_taken_for_truer():
    def head(seen):
        return seen[0]

    high, low = [torch.tensor([[2.0], [1.0]])], [torch.tensor([[0.0], [3.0]])]
    assert share_right(head, [(high, low, high)]) == 0.5
