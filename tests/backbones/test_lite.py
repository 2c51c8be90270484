"""flux2-lite: shapes, channel order, how far it sees, and the file that holds it."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from latpix.backbones.lite import REACH, Block, Lite, overview, parameters
from latpix.backbones.lite_file import load_lite, save_lite
from latpix.errors import CheckpointError
from latpix.files.digest import digest


@pytest.fixture(scope="module")
def model():
    """A model whose blocks do something: fresh ones are the identity and would hide what they see."""
    torch.manual_seed(0)
    lite = Lite().requires_grad_(False)
    for module in lite.modules():
        if isinstance(module, Block):
            torch.nn.init.normal_(module.second.weight, std=0.05)
    torch.nn.init.normal_(lite.decoder.overview[2].weight, std=0.05)
    return lite


def test_a_picture_becomes_a_cell_per_16_pixels_and_comes_back_at_its_size(model):
    latent = model.encoder(torch.zeros(2, 3, 48, 80))
    assert latent.shape == (2, 128, 3, 5)
    assert model.decoder(latent).shape == (2, 3, 48, 80)


def test_channel_c_dy_dx_of_a_cell_is_the_eighth_scale_form_at_row_2i_dy_and_column_2j_dx(model):
    eighths = []
    hook = model.encoder.leave.register_forward_hook(lambda module, inputs, output: eighths.append(output))
    latent = model.encoder(torch.rand(1, 3, 48, 32))
    hook.remove()
    channel, dy, dx, row, column = 5, 1, 0, 2, 1
    expected = eighths[0][0, channel, 2 * row + dy, 2 * column + dx]
    assert latent[0, channel * 4 + dy * 2 + dx, row, column] == expected


@pytest.mark.parametrize("row", [0, 13, 25])
def test_a_cell_depends_on_nothing_further_away_than_the_reach(model, row):
    pixels = torch.rand(1, 3, 26 * 16, 16)
    far = [other for other in range(26) if abs(other - row) > REACH]
    changed = pixels.clone()
    for other in far:
        changed[:, :, other * 16 : other * 16 + 16] = torch.rand(1, 3, 16, 16)
    assert torch.equal(model.encoder(pixels)[:, :, row], model.encoder(changed)[:, :, row])
    latent, other_latent = torch.randn(1, 128, 26, 1), torch.randn(1, 128, 26, 1)
    near = [other for other in range(26) if other not in far]
    other_latent[:, :, near] = latent[:, :, near]
    rows = slice(row * 16, row * 16 + 16)
    seen = overview(latent)
    assert torch.equal(model.decoder(latent, seen)[:, :, rows], model.decoder(other_latent, seen)[:, :, rows])


def test_the_overview_is_mean_and_deviation_of_the_eighth_scale_channels():
    latent = torch.randn(2, 128, 3, 5)
    eighths = torch.nn.functional.pixel_shuffle(latent, 2)
    seen = overview(latent)
    torch.testing.assert_close(seen[:, :32], eighths.mean(dim=(2, 3)))
    torch.testing.assert_close(seen[:, 32:], eighths.std(dim=(2, 3), correction=0), rtol=1e-3, atol=1e-3)


def test_a_cell_decodes_otherwise_in_another_picture(model):
    latent = torch.randn(1, 128, 26, 1)
    changed = torch.cat([latent[:, :, :13], latent[:, :, 13:] * 3], dim=2)
    assert not torch.equal(model.decoder(latent)[:, :, :16], model.decoder(changed)[:, :, :16])


def test_a_fresh_block_is_the_identity():
    x = torch.rand(1, 8, 5, 5)
    assert torch.equal(Block(8)(x), x)


def test_both_halves_fit_into_8_megabytes_at_16_bits():
    assert parameters(Lite()) * 2 < 8e6


def test_a_saved_codec_comes_back_rounded_to_float16_with_its_digest(model, tmp_path):
    path = tmp_path / "codec.safetensors"
    sha256 = save_lite(model, path, source="a test", license="Apache-2.0")
    loaded, found = load_lite(path)
    assert found == sha256
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "latpix-checkpoint-1"
    assert (metadata["space"], metadata["source"], metadata["license"]) == ("flux2", "a test", "Apache-2.0")


def test_the_digest_changes_with_one_value_and_not_with_the_order():
    a, b = torch.zeros(3), torch.ones(2, 2)
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a})
    assert digest({"a": a, "b": b}) != digest({"a": a + torch.tensor([0, 0, 1e-7]), "b": b})
    assert digest({"a": a, "b": b}) != digest({"a": a, "b": b.flatten()})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda tensors: tensors.pop("decoder.up.bias"), "missing"),
        (lambda tensors: tensors.update(stranger=torch.zeros(1)), "stranger"),
        (lambda tensors: tensors.update({"decoder.up.bias": torch.zeros(3)}), "decoder.up.bias"),
    ],
)
def test_a_file_with_other_tensors_is_refused_by_name(model, tmp_path, change, word):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(tensors)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=word):
        load_lite(tmp_path / "other.safetensors")


def test_a_file_whose_tensors_changed_after_saving_is_refused(model, tmp_path):
    path = tmp_path / "codec.safetensors"
    save_lite(model, path, source="a test", license="Apache-2.0")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_lite(path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_lite(tmp_path / "junk.safetensors")
