"""Quantized files: what they hold, what they lose, and that they are used like any other."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_decoder import NETWORK
from small_networks import call, small_inputs, small_network

from latpix import Decoder
from latpix.checkpoints.load import convert, inspect, load, save
from latpix.checkpoints.quantize import FLOOR, layers_of, quantize, quantize_rows, signal_to_noise
from latpix.checkpoints.registry import find
from latpix.errors import CheckpointError, OptionError, OutputError
from latpix.network.precision import QuantizedLinear

KINDS = ("int8", "fp8")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "small.safetensors"
    save(small_network(NETWORK), replace(find("flux2-tiny"), name="small", network=NETWORK), path, dtype=torch.bfloat16)
    return path


@pytest.fixture(scope="module", params=KINDS)
def quantized(request, original):
    path = original.with_name(f"{request.param}.safetensors")
    return request.param, path, quantize(original, path, kind=request.param)


def test_codes_times_scale_are_within_half_a_step_of_the_weights():
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-4], [1], [3], [0], [7]])
    codes, scale = quantize_rows(weight, torch.int8)
    assert ((codes * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()
    assert codes.abs().amax(1).tolist() == [127, 127, 127, 0, 127]
    codes, scale = quantize_rows(weight, torch.float8_e4m3fn)
    error = (codes.float() * scale[:, None] - weight).abs()
    assert (error <= weight.abs() / 16 + scale[:, None] * 2**-10).all()  # three bits after the leading one


@pytest.mark.parametrize(("dtype", "expected"), [(torch.int8, 48.1), (torch.float8_e4m3fn, 31.9)])
def test_the_ratio_of_evenly_spread_weights_is_the_one_that_theory_gives(dtype, expected):
    """Noise is a step's square / 12: steps are 1/127 of the largest, or 1/8 of the power of two below each weight."""
    weight = torch.rand(64, 4096, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert signal_to_noise(weight, *quantize_rows(weight, dtype)) == pytest.approx(expected, abs=0.1)


def test_the_blocks_are_quantized_and_nothing_that_stays_is(quantized, original):
    _, path, layers = quantized
    before, after = load_file(original), load_file(path)
    changed = {name for name, tensor in before.items() if tensor.dtype != after[name].dtype}
    assert changed == {f"{layer.name}.weight" for layer in layers}
    assert all(name.startswith(("patch_blocks.", "pixel_blocks.")) for name in changed)
    assert not any(name.startswith("pixel_blocks.0.mlp") for name in changed)
    assert {"pixel_blocks.0.modulation.weight", "patch_blocks.0.image.mlp.up.weight"} < changed
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name not in changed)
    assert all(layer.snr > FLOOR for layer in layers)


def test_of_a_released_network_most_weights_are_quantized():
    row = find("flux1-2k")
    layers = layers_of(row)
    assert sum(torch.Size(row.shapes[f"{name}.weight"]).numel() for name in layers) / row.parameters > 0.9
    assert not any(part in name for name in layers for part in ("embedding", "gates", "latent_projection", "final"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_network_computes_with_what_its_codes_stand_for(quantized, dtype):
    """The same numbers as a plain network whose weights were rounded through the codes."""
    _, path, layers = quantized
    loaded = load(path, dtype=dtype)
    plain, stored = small_network(NETWORK), load_file(path)
    state = {name: tensor.float() for name, tensor in stored.items() if not name.endswith("_scale")}
    for layer in layers:
        state[f"{layer.name}.weight"] *= stored[f"{layer.name}.weight_scale"][:, None]
        assert isinstance(loaded.network.get_submodule(layer.name), QuantizedLinear)
    plain.load_state_dict(state)
    save(plain, loaded.row, path.with_name("plain.safetensors"))
    given = small_inputs(NETWORK, grid=(4, 4), batch=1)
    expected = load(path.with_name("plain.safetensors"), dtype=dtype).network
    torch.testing.assert_close(call(loaded.network, given), call(expected, given), rtol=0, atol=1e-6)


def test_eight_bits_change_a_picture_a_little(quantized, original):
    kind, path, _ = quantized
    given = small_inputs(NETWORK, grid=(4, 4), batch=1)
    one, other = (call(load(p).network, given) for p in (original, path))
    error = float((one - other).norm() / one.norm())
    assert 1e-4 < error < {"int8": 0.02, "fp8": 0.1}[kind]


def test_a_quantized_file_is_a_checkpoint_like_any_other(quantized, original):
    kind, path, _ = quantized
    report, plain = inspect(path), inspect(original)
    assert (report.fits, report.parameters, report.quantized) == (plain.fits, plain.parameters, (kind,))
    assert plain.quantized == ()
    assert report.sha256 != plain.sha256
    assert path.stat().st_size < original.stat().st_size


def test_int8_decodes_and_fp8_is_refused_on_a_cpu(quantized):
    kind, path, _ = quantized
    if kind == "fp8":
        with pytest.raises(OptionError, match=r"fp8 weights.*H100.*this is cpu.*--to int8"):
            Decoder.load(path, device="cpu")
        return
    pixels = Decoder.load(path, device="cpu", dtype="float32").decode(torch.randn(1, 128, 8, 8), steps=1)
    assert pixels.shape == (1, 3, 512, 512)


def test_a_layer_with_outliers_is_refused_in_int8_and_nothing_is_written(tmp_path):
    network = small_network(NETWORK)
    wide = network.pixel_blocks[0].compress.weight  # [16, 1024]
    wide[:, 0] = 40 * wide.std()
    save(network, replace(find("flux2-tiny"), name="small", network=NETWORK), tmp_path / "wild.safetensors")
    with pytest.raises(CheckpointError, match=r'1 of \d+ layers.*28 dB, "pixel_blocks.0.compress" to 2\d\.\d dB'):
        quantize(tmp_path / "wild.safetensors", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["wild.safetensors"]
    assert quantize(tmp_path / "wild.safetensors", tmp_path / "out.safetensors", kind="fp8")


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("out.pth", {}, OutputError),
        ("here.safetensors", {}, OutputError),
        ("out.safetensors", {"kind": "int4"}, OptionError),
    ],
)
def test_what_cannot_be_written_is_refused(original, tmp_path, name, options, error):
    (tmp_path / "here.safetensors").write_bytes(b"mine")
    with pytest.raises(error):
        quantize(original, tmp_path / name, **options)
    assert (tmp_path / "here.safetensors").read_bytes() == b"mine"


def test_what_is_quantized_is_not_quantized_again_nor_converted(quantized, tmp_path):
    _, path, _ = quantized
    with pytest.raises(CheckpointError, match=r"is quantized to (int8|fp8) already; take the original"):
        quantize(path, tmp_path / "again.safetensors")
    with pytest.raises(CheckpointError, match="convert the original"):
        convert(path, tmp_path / "upstream.pth")
    assert not list(tmp_path.iterdir())
