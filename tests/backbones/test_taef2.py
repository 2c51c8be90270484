"""TAEF2's structure, with random weights: keys, shapes, and that it sees the whole picture."""

import pytest
import torch

from latpix.backbones.taef2 import Taef2
from latpix.errors import CheckpointError


@pytest.fixture(scope="module")
def taef2():
    torch.manual_seed(0)
    return Taef2().requires_grad_(False)


def test_its_keys_and_shapes_are_those_of_the_published_files(taef2):
    encoder = {key: tuple(value.shape) for key, value in taef2.encoder.state_dict().items()}
    decoder = {key: tuple(value.shape) for key, value in taef2.decoder.state_dict().items()}
    assert encoder["0.weight"] == (64, 3, 3, 3)
    assert encoder["14.weight"] == (32, 64, 3, 3)
    assert decoder["1.weight"] == (64, 32, 3, 3)
    assert decoder["19.weight"] == (3, 64, 3, 3)
    for half, deepest, plain in ((encoder, (11, 12, 13), (1, 5, 9)), (decoder, (3, 4, 5), (8, 15, 18))):
        for block in deepest:
            assert half[f"{block}.pool.0.weight"] == (256, 64, 1, 1)
            assert half[f"{block}.pool.1.bias"] == (256,)
            assert half[f"{block}.pool.3.weight"] == (64, 256, 1, 1)
            assert f"{block}.pool.0.bias" not in half
        for block in plain:
            assert half[f"{block}.conv.4.bias"] == (64,)
            assert f"{block}.pool.0.weight" not in half
    assert not {"2.bias", "6.bias", "10.bias"} & encoder.keys()
    assert not {"7.bias", "12.bias", "17.bias"} & decoder.keys()


def test_a_picture_becomes_a_packed_latent_and_comes_back_at_its_size(taef2):
    latent = taef2.encode(torch.zeros(1, 3, 32, 48))
    assert latent.shape == (1, 128, 2, 3)
    decoded = taef2.decode(latent * 100)
    assert decoded.shape == (1, 3, 32, 48)
    assert decoded.abs().max() <= 1


def test_latents_far_out_decode_as_if_they_were_3(taef2):
    far, at_3 = torch.full((1, 128, 2, 2), 90.0), torch.full((1, 128, 2, 2), 45.0)
    torch.testing.assert_close(taef2.decode(far), taef2.decode(at_3))


def test_a_cell_depends_on_pixels_that_no_convolution_reaches(taef2):
    pixels = torch.rand(1, 3, 16, 1024) * 2 - 1
    changed = pixels.clone()
    changed[..., 768:] = -changed[..., 768:] * 0.2
    assert not torch.equal(taef2.encode(pixels)[..., 0], taef2.encode(changed)[..., 0])


def test_loading_from_a_folder_gives_back_the_weights_in_float32(taef2, tmp_path):
    for name, half in (("encoder", taef2.encoder), ("decoder", taef2.decoder)):
        torch.save({key: value.half() for key, value in half.state_dict().items()}, tmp_path / f"taef2_{name}.pth")
    loaded = Taef2.load(tmp_path)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, taef2.state_dict()[key].half().float()), key
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_folder_without_the_files_or_with_others_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no taef2_encoder\.pth"):
        Taef2.load(tmp_path)
    torch.save({"0.weight": torch.zeros(1)}, tmp_path / "taef2_encoder.pth")
    with pytest.raises(CheckpointError, match="is not TAEF2"):
        Taef2.load(tmp_path)
