import json
from pathlib import Path

import pytest

from latpix.checkpoints.convert import config_from_upstream, upstream_name
from latpix.checkpoints.registry import CHECKPOINTS, find, rows_that_read
from latpix.errors import CheckpointError
from latpix.latents.spaces import LATENT_SPACES

RELEASED = json.loads((Path(__file__).parents[1] / "golden" / "checkpoints.json").read_text())
LISTED = [entry for kind in ("distilled", "undistilled", "text_to_image") for entry in RELEASED[kind]]
WITHDRAWN = RELEASED["legacy_v1_2kto4k"]["entries"]
ROWS = {row.upstream_path: row for row in CHECKPOINTS.values() if row.upstream_path}


def shapes_of(layout):
    """A layout's shapes: its own, or another's with some removed, replaced and added."""
    if "shapes" in layout:
        return dict(layout["shapes"])
    shapes = shapes_of(RELEASED["layouts"][layout["extends"]])
    dropped = tuple(layout.get("remove_prefix", []))
    shapes = {k: v for k, v in shapes.items() if k not in layout.get("remove", []) and not k.startswith(dropped)}
    return {**shapes, **layout.get("replace", {}), **layout.get("add", {})}


def test_every_released_and_withdrawn_file_has_one_row():
    files = [entry["file"] for entry in LISTED + WITHDRAWN]
    assert sorted(files) == sorted(ROWS)
    assert {path for path, row in ROWS.items() if row.withdrawn} == {entry["file"] for entry in WITHDRAWN}


@pytest.mark.parametrize("entry", LISTED + WITHDRAWN, ids=lambda entry: entry["file"].split("/")[1])
def test_keys_shapes_and_counts_are_those_of_the_file(entry):
    row, layout = ROWS[entry["file"]], RELEASED["layouts"][entry["layout"]]
    shapes = {upstream_name(name): list(shape) for name, shape in row.shapes.items()}
    assert shapes == shapes_of(layout)
    assert len(shapes) == layout["n_keys"]
    assert row.parameters == layout["n_params"]


@pytest.mark.parametrize("entry", LISTED, ids=lambda entry: entry["file"].split("/")[1])
def test_networks_and_sampling_are_those_of_the_released_configurations(entry):
    row = ROWS[entry["file"]]
    net = {**RELEASED["net_bases"].get(entry["net"].get("base"), {}), **entry["net"]}
    net.pop("base", None)
    assert config_from_upstream(net, "PidNet" if "backbone" in entry else "PixDiT_T2I") == row.network
    sampling, shift = row.sampling, entry["dynamic_shift"]
    assert (sampling.times is None) == ("t_list" not in entry)
    assert sampling.times is None or list(sampling.times) == entry["t_list"]
    assert (sampling.steps, sampling.prediction, sampling.shift) == (
        entry["steps"],
        entry["prediction"],
        entry["shift"],
    )
    assert sampling.sampler == entry.get("sample_type", "sde")
    assert sampling.guidance_scale == entry.get("cfg_scale", 1.0)
    found = sampling.dynamic_shift
    values = list(shift.values()) if shift else None
    assert (None if found is None else [found.base, found.reference]) == values
    if "backbone" in entry:
        space = LATENT_SPACES[row.space]
        assert (space.channels, space.downsample) == (entry["latent_channels"], entry["vae_spatial_factor"])
        assert row.scale == entry["sr_scale"]


@pytest.mark.parametrize("row", [row for row in CHECKPOINTS.values() if row.space], ids=lambda row: row.name)
def test_a_row_reads_its_spaces_latents(row):
    space = LATENT_SPACES[row.space]
    assert (row.network.latent_channels, row.network.latent_downsample) == (space.channels, space.downsample)
    assert row in rows_that_read(row.space)


def test_the_shipped_network_has_the_size_that_was_promised():
    assert 8e6 <= find("flux2-tiny").parameters <= 20e6


def test_an_unknown_name_is_answered_with_names_near_it():
    with pytest.raises(CheckpointError, match="flux2-2k"):
        find("flux2-2K")
