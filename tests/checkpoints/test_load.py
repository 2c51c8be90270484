import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_networks import SMALL_TINY

from latpix import resources
from latpix.checkpoints.convert import to_upstream
from latpix.checkpoints.load import convert, inspect, load, save
from latpix.checkpoints.registry import find
from latpix.errors import CheckpointError, OutputError
from latpix.network.precision import Conv2d, Linear

PREFIXES = ["net.", "", "model.diffusion_model.", "core."]
LEFTOVERS = {
    "net.": ["net_ema.final_layer.linear.bias", "fake_score.final_layer.linear.bias", "discriminator.head.weight"],
    "core.": ["core.pos_embed", "core._repa_projector.0.weight", "_repa_projector.2.bias"],
}


def write(state, path):
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)


def same_bits(state, other):
    return set(state) == set(other) and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in state.items()
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_form_of_a_file_gives_the_same_network(weights, tmp_path, prefix, suffix):
    state, path = weights("lonely"), tmp_path / f"w{suffix}"
    leftovers = {name: torch.ones(2) for name in LEFTOVERS.get(prefix, [])}
    write({**to_upstream(state, prefix=prefix), **leftovers}, path)
    loaded = load(path)
    assert loaded.row.name == "lonely"
    assert same_bits(loaded.network.state_dict(), {name: tensor.float() for name, tensor in state.items()})
    assert len(loaded.sha256) == 64


def test_a_file_of_torch_before_zip_loads_too(weights, tmp_path):
    torch.save(to_upstream(weights("lonely")), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert load(tmp_path / "w.pth").row.name == "lonely"


@pytest.mark.parametrize("name", ["alike-1", "lonely", "student", "teacher"])
def test_conversion_there_and_back_is_bit_exact(weights, tmp_path, name):
    upstream = to_upstream(weights(name))
    torch.save(upstream, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "b.safetensors", like=name).name == name
    assert convert(tmp_path / "b.safetensors", tmp_path / "c.pth").name == name
    assert same_bits(torch.load(tmp_path / "c.pth", weights_only=True), upstream)
    assert len({inspect(tmp_path / file).sha256 for file in ("a.pth", "b.safetensors", "c.pth")}) == 1


def test_the_rgb_head_of_a_students_file_is_not_read_but_survives_conversion(rows, weights, tmp_path):
    upstream = to_upstream(weights("teacher"))
    torch.save(upstream, tmp_path / "a.pth")
    loaded = load(tmp_path / "a.pth", like="student")
    assert loaded.network.latent_projection.rgb_head is None
    assert load(tmp_path / "a.pth", like="teacher").network.latent_projection.rgb_head is not None
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", like="student")
    assert load(tmp_path / "b.safetensors").row == rows["student"]
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    assert same_bits(torch.load(tmp_path / "c.pth", weights_only=True), upstream)


def test_a_teachers_file_without_its_rgb_head_loads_when_it_is_named(weights, tmp_path):
    torch.save(to_upstream(weights("student")), tmp_path / "a.pth")
    assert load(tmp_path / "a.pth").row.name == "student"
    loaded = load(tmp_path / "a.pth", like="teacher")
    assert loaded.row.name == "teacher"
    assert loaded.network.latent_projection.rgb_head is None


@pytest.mark.parametrize("name", ["alike-2", "teacher", "own"])
def test_a_file_of_ours_says_itself_what_it_is(rows, weights, tmp_path, name):
    # The third is in no registry.
    row = rows.get(name) or replace(rows["student"], name="own", version="tiny", network=SMALL_TINY, space="flux2")
    state = {n: torch.zeros(shape, dtype=torch.float16) for n, shape in row.shapes.items()}
    save(state, row, tmp_path / "w.safetensors", source="a test")
    assert load(tmp_path / "w.safetensors").row == row
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        story = file.metadata()
    assert set(story) == {"format", "config", "space", "scale", "sha256", "license", "source"}
    assert (story["format"], story["space"], story["scale"]) == ("latpix-checkpoint-1", row.space, str(row.scale))
    assert (story["sha256"], story["license"], story["source"]) == (
        inspect(tmp_path / "w.safetensors").sha256,
        row.license,
        "a test",
    )


def test_a_file_that_fits_two_rows_is_not_guessed(weights, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(to_upstream(weights("alike-1")), path)
    with pytest.raises(CheckpointError, match=r"fits 2 registry rows.*alike-1, alike-2.*--like"):
        load(path)
    with pytest.raises(CheckpointError, match=r"fits 2 registry rows"):
        convert(path, tmp_path / "out.safetensors")
    assert load(path, like="alike-2").network.config.rope_reference == (64, 64)
    with pytest.raises(CheckpointError, match=r"Registry rows that fit: alike-1, alike-2"):
        load(path, like="lonely")
    with pytest.raises(CheckpointError, match=r"Did you mean alike-"):
        load(path, like="alike-3")


def test_missing_strange_and_reshaped_tensors_are_named_by_upstreams_names(weights, tmp_path):
    upstream = to_upstream(weights("lonely"))
    upstream["net.extra.weight"] = upstream.pop("net.final_layer.linear.bias")
    upstream["net.pixel_embedder.proj.bias"] = torch.zeros(5)
    save_file(upstream, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as refusal:
        load(tmp_path / "w.safetensors")
    for part in (
        'nearest is "lonely"',
        "1 missing (final_layer.linear.bias)",
        "1 strange (extra.weight)",
        "1 of another shape (pixel_embedder.proj.bias)",
    ):
        assert part in str(refusal.value)
    report = inspect(tmp_path / "w.safetensors")
    assert (report.fits, report.nearest) == ((), "lonely")
    assert report.missing == ("final_layer.linear.bias",)
    assert report.strange == ("extra.weight",)
    assert report.reshaped == ("pixel_embedder.proj.bias",)


def test_a_report_says_what_a_file_is(rows, weights, tmp_path):
    torch.save(to_upstream(weights("alike-1")), tmp_path / "w.pth")
    report = inspect(tmp_path / "w.pth")
    assert (report.fits, report.spaces, report.family) == (("alike-1", "alike-2"), ("flux1", "sd3"), "v1")
    assert (report.width, report.latent_width) == (16, 8)
    assert (report.tensors, report.parameters) == (len(rows["alike-1"].shapes), rows["alike-1"].parameters)
    assert report.sha256 == load(tmp_path / "w.pth", like="alike-1").sha256
    assert report.peak_bytes > 50e6  # at least what torch alone takes
    assert (report.nearest, report.missing, report.strange, report.reshaped) == (None, (), (), ())


def test_a_report_of_something_else_says_so(rows, tmp_path):
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    report = inspect(tmp_path / "w.safetensors")
    assert (report.fits, report.family, report.nearest) == ((), None, None)
    assert report.strange == ("encoder.weight",)


class Trap:
    """Executes code when it is unpickled, if anything lets it."""

    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('trapped').touch()",))


@pytest.mark.parametrize("kind", ["zip", "before zip", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    state = {"net.final_layer.linear.bias": torch.zeros(3), "net.trap": Trap()}
    if kind == "pickle":
        Path("w.pth").write_bytes(pickle.dumps(state))
    else:
        torch.save(state, "w.pth", _use_new_zipfile_serialization=kind == "zip")
    for look in (load, inspect):
        with pytest.raises(CheckpointError, match="no code is ever loaded"):
            look("w.pth")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 nonsense", "damaged"),
        (b"\x80\x02nonsense", "damaged|refused"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version https:.*download the file itself"),
        (b"<!DOCTYPE html>", "begins with b'<!DOCTYPE html>'"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is empty|damaged or not a safetensors file"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_cut_short_is_refused(weights, tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    write(to_upstream(weights("lonely")), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model": {"net.final_layer.linear.bias": torch.zeros(3)}}, "not a flat mapping.*not a training state"),
        ([torch.zeros(3)], "not a flat mapping"),
        ({}, "holds no tensors"),
        ({"net_ema.final_layer.linear.bias": torch.zeros(3)}, "networks that only training uses"),
    ],
)
def test_a_torch_file_of_another_form_is_refused(tmp_path, state, message):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "w.pth")


def test_a_quantized_file_is_refused(weights, tmp_path):
    state = to_upstream(weights("lonely"))
    state["net.s_embedder.proj.weight"] = state["net.s_embedder.proj.weight"].to(torch.int8)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"not plain floating-point.*patch_embedding\.weight \(torch\.int8\)"):
        load(tmp_path / "w.safetensors")


def test_a_changed_bit_in_our_file_is_noticed(rows, weights, tmp_path):
    path = tmp_path / "w.safetensors"
    save(weights("alike-1"), rows["alike-1"], path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for look in (load, inspect, lambda path: convert(path, tmp_path / "w.pth")):
        with pytest.raises(CheckpointError, match=r"damaged.*sha256"):
            look(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "latpix-latent-1"}, 'of format "latpix-latent-1"'),
        ({"format": "latpix-checkpoint-2"}, "update latpix"),
        ({"format": "latpix-checkpoint-1", "config": "{"}, "cannot be read"),
        ({"format": "latpix-checkpoint-1", "config": "{}", "space": "flux1", "license": ""}, "cannot be read"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused(weights, tmp_path, metadata, message):
    save_file(to_upstream(weights("lonely")), tmp_path / "w.safetensors", metadata)
    for look in (load, inspect):
        with pytest.raises(CheckpointError, match=message):
            look(tmp_path / "w.safetensors")


def test_a_codecs_file_is_told_from_a_decoders():
    with pytest.raises(CheckpointError, match='holds the codec "flux2-lite", not a decoder'):
        load(resources.weight("flux2-lite"))


def test_views_of_one_block_of_memory_are_saved_each_by_itself(rows, weights, tmp_path):
    state = weights("lonely")
    block = torch.cat([tensor.flatten() for tensor in state.values()])
    pieces = block.split([tensor.numel() for tensor in state.values()])
    views = {name: piece.view(state[name].shape) for name, piece in zip(state, pieces, strict=True)}
    torch.save(to_upstream(views), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    assert same_bits(torch.load(tmp_path / "c.pth", weights_only=True), to_upstream(state))
    assert (tmp_path / "c.pth").stat().st_size < 2 * (tmp_path / "b.safetensors").stat().st_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_rest_in_the_type_asked_for_and_the_rest_in_float32(rows, weights, tmp_path, dtype):
    save(weights("student"), rows["student"], tmp_path / "w.safetensors")
    network = load(tmp_path / "w.safetensors", dtype=dtype).network
    resting = {id(p) for m in network.modules() if isinstance(m, Linear | Conv2d) for p in m.parameters()}
    for name, parameter in network.named_parameters():
        assert parameter.dtype == (dtype if id(parameter) in resting else torch.float32), name
        assert not parameter.requires_grad
    rest = {name for name, parameter in network.named_parameters() if id(parameter) not in resting}
    expected = ("caption_embedding.positions", "gates.0.log_alpha", "pixel_gate.log_alpha", "final_norm.weight")
    assert set(expected) <= rest
    assert all(name in expected or "norm" in name or name.endswith("log_alpha") for name in rest)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_tensor_that_rests_as_the_file_has_it_stays_in_the_file(weights, tmp_path, suffix):
    write(to_upstream(weights("lonely")), tmp_path / f"w{suffix}")
    network = load(tmp_path / f"w{suffix}", dtype=torch.bfloat16).network
    regions = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if f"w{suffix}" in line]
    spans = [tuple(int(end, 16) for end in region[0].split("-")) for region in regions]
    for name, parameter in network.named_parameters():
        mapped = any(low <= parameter.data_ptr() < high for low, high in spans)
        assert mapped == (parameter.dtype == torch.bfloat16), name


def test_a_name_that_was_not_fetched_says_how_to():
    with pytest.raises(CheckpointError, match=r"latpix checkpoints fetch sd3-2k\. It is under the NVIDIA license"):
        load("sd3-2k")


def test_what_is_no_file_and_no_name_is_answered_with_names(tmp_path):
    with pytest.raises(CheckpointError, match="flux2-tiny"):
        load("flux-tiny")
    with pytest.raises(CheckpointError, match="does not exist"):
        load("nowhere.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "w.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"expected one of \.safetensors, \.pth, \.pt"):
        load(tmp_path / "w.gguf")


def test_a_registry_name_is_not_like_another():
    assert load("flux2-tiny", like="flux2-tiny").row == find("flux2-tiny")
    with pytest.raises(CheckpointError, match="leave one of them out"):
        load("flux2-tiny", like="flux2-2k")


def test_conversion_to_an_unknown_suffix_or_over_a_file_is_refused(rows, weights, tmp_path):
    path = tmp_path / "w.safetensors"
    save(weights("alike-1"), rows["alike-1"], path)
    with pytest.raises(OutputError, match=r"\.pth"):
        convert(path, tmp_path / "w.gguf")
    with pytest.raises(OutputError, match="exists already"):
        convert(path, path)
    before = path.read_bytes()
    convert(path, path, overwrite=True)
    assert load_file(path).keys() == weights("alike-1").keys()
    assert len(path.read_bytes()) >= len(before) - 100


def test_the_shipped_file_is_small_and_is_the_row_that_names_it():
    path = resources.weight("flux2-tiny")
    assert path.stat().st_size <= 40e6
    assert {t.dtype for t in load_file(path).values()} == {torch.bfloat16}
    assert load(path).row == find("flux2-tiny")
    assert inspect("flux2-tiny").fits == ("flux2-tiny",)
