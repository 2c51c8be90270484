"""Normalization: known numbers, there and back, and statistics that come from a file or not at all."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from latpix.errors import LatentError
from latpix.latents.normalize import Statistics, denormalize, normalize, read_statistics
from latpix.latents.spaces import LATENT_SPACES

FLUX2, DINOV2, SIGLIP, QWEN = (LATENT_SPACES[name] for name in ("flux2", "dinov2", "siglip", "qwen"))
TINY_DINOV2 = replace(DINOV2, channels=6, fixed_size=4)


class Attack:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def values(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def statistics_of(space, seed=1):
    sizes = [space.channels] if space.fixed_size is None else [space.channels, space.fixed_size, space.fixed_size]
    return Statistics(values(*sizes, seed=seed).float(), values(*sizes, seed=seed + 1).square().float() + 0.1)


@pytest.mark.parametrize(
    ("name", "raw", "latent"),
    [("flux1", 1.1159, 0.3611), ("flux1", 0.1159, 0.0), ("sd3", 1.0609, 1.5305), ("sdxl", -2.0, -0.2605)],
)
def test_one_number_per_affine_space(name, raw, latent):
    space = LATENT_SPACES[name]
    result = normalize(torch.full((1, space.channels, 2, 3), raw, dtype=torch.float64), space)
    torch.testing.assert_close(result, torch.full_like(result, latent))


def test_qwens_mean_becomes_0_and_one_deviation_above_it_1():
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (QWEN.normalization.mean, QWEN.normalization.std))
    assert (normalize(mean, QWEN) == 0).all()
    torch.testing.assert_close(normalize(mean + std, QWEN), torch.ones(1, 16, 1, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["flux1", "sd3", "sdxl", "qwen", "flux2", "dinov2"])
def test_a_raw_latent_comes_back(name):
    space = LATENT_SPACES[name]
    side = space.fixed_size or 6
    raw = 3 * values(2, space.raw_channels, side, side) + 1
    statistics = statistics_of(space) if name in ("flux2", "dinov2") else None
    latent = normalize(raw, space, statistics)
    assert latent.shape == (2, space.channels, side // space.patchify, side // space.patchify)
    torch.testing.assert_close(denormalize(latent, space, statistics), raw)


def test_flux2s_own_statistics_make_each_channel_standard():
    raw = 5 * values(3, 32, 8, 10) - 2
    patches = raw.unfold(2, 2, 2).unfold(3, 2, 2)  # [b, c, h, w, dy, dx]
    folded = patches.permute(1, 4, 5, 0, 2, 3).reshape(128, -1)  # channel c*4 + dy*2 + dx first
    latent = normalize(raw, FLUX2, Statistics(folded.mean(1).float(), folded.var(1, correction=0).float()))
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(128, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        latent.std((0, 2, 3), correction=0), torch.ones(128, dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_a_dead_channel_of_flux2_is_held_by_epsilon():
    statistics = Statistics(torch.zeros(128), torch.zeros(128))
    torch.testing.assert_close(normalize(torch.full((1, 32, 2, 2), 0.01), FLUX2, statistics), torch.ones(1, 128, 1, 1))


def test_dinov2_has_statistics_of_its_own_for_every_cell():
    mean = torch.zeros(6, 4, 4)
    mean[2, 1, 3] = 7
    latent = normalize(torch.zeros(1, 6, 4, 4), TINY_DINOV2, Statistics(mean, torch.ones(6, 4, 4)))
    assert latent.nonzero().tolist() == [[0, 2, 1, 3]]


def test_a_cell_of_siglip_is_standard_over_its_channels_whatever_its_scale():
    raw = values(1, 1152, 16, 16) * 40 + 3
    latent = normalize(raw, SIGLIP)
    torch.testing.assert_close(latent.mean(1), torch.zeros(1, 16, 16, dtype=torch.float64))
    torch.testing.assert_close(latent.var(1, correction=0), torch.ones(1, 16, 16, dtype=torch.float64))
    torch.testing.assert_close(normalize(raw * 10, SIGLIP), latent)


def test_siglips_decoder_reads_the_latent_as_it_is():
    latent = values(1, 1152, 16, 16)
    assert torch.equal(denormalize(latent, SIGLIP), latent)


def test_bfloat16_is_rounded_once():
    raw = values(1, 16, 6, 6, dtype=torch.float32).bfloat16() * 3
    latent = normalize(raw, QWEN)
    assert latent.dtype == torch.bfloat16
    assert torch.equal(latent, normalize(raw.float(), QWEN).bfloat16())


@pytest.mark.parametrize("space", [FLUX2, DINOV2], ids=lambda space: space.name)
def test_without_statistics_both_ways_are_refused_naming_the_file(space):
    side = space.fixed_size or 4
    for way, channels in ((normalize, space.raw_channels), (denormalize, space.channels)):
        with pytest.raises(LatentError) as error:
            way(torch.zeros(1, channels, side, side), space)
        assert space.normalization.file in str(error.value)
        assert "read_statistics" in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("flux1", (1, 4, 8, 8), "[b, 16, h, w]"),
        ("flux1", (16, 8, 8), "[b, 16, h, w]"),
        ("flux2", (1, 128, 8, 8), "[b, 32, 2h, 2w]"),
        ("flux2", (1, 32, 8, 7), "[b, 32, 2h, 2w]"),
        ("dinov2", (1, 768, 32, 16), "[b, 768, 32, 32]"),
    ],
)
def test_a_raw_latent_of_another_shape_is_refused(name, shape, expected):
    with pytest.raises(LatentError) as error:
        normalize(torch.zeros(shape), LATENT_SPACES[name])
    assert expected in str(error.value)
    assert str(list(shape)) in str(error.value)


def test_statistics_of_a_vae_are_read_from_its_file(tmp_path):
    written, path = statistics_of(FLUX2), tmp_path / "vae.safetensors"
    save_file(
        {
            "bn.running_mean": written.mean,
            "bn.running_var": written.var.double(),
            "bn.num_batches_tracked": torch.tensor(5),
            "encoder.conv_in.weight": torch.zeros(2, 2),
        },
        path,
    )
    read = read_statistics(path, FLUX2)
    assert torch.equal(read.mean, written.mean)
    assert torch.equal(read.var, written.var)


def test_statistics_of_dinov2_are_read_from_a_torch_file(tmp_path):
    written, path = statistics_of(TINY_DINOV2), tmp_path / "stat.pt"
    torch.save({"mean": written.mean, "var": written.var}, path)
    read = read_statistics(path, TINY_DINOV2)
    assert torch.equal(read.mean, written.mean)
    assert torch.equal(read.var, written.var)


def test_a_space_without_a_file_takes_none(tmp_path):
    with pytest.raises(LatentError, match='space "flux1" is normalized without'):
        read_statistics(tmp_path / "any", LATENT_SPACES["flux1"])


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"mean": torch.zeros(6, 4, 4)}, "lacks the tensors mean and var"),
        ({"mean": torch.zeros(6, 4, 4), "var": 1.0}, "lacks the tensors"),
        ({"mean": torch.zeros(6), "var": torch.ones(6)}, r"\[6, 4, 4\]"),
        ({"mean": torch.zeros(6), "var": torch.ones(6, 4, 4)}, r"\[6, 4, 4\]"),
        ({"mean": torch.zeros(6, 4, 4), "var": torch.ones(6)}, r"\[6, 4, 4\]"),
        ({"mean": torch.zeros(6, 4, 4), "var": -torch.ones(6, 4, 4)}, "damaged"),
        ({"mean": torch.full((6, 4, 4), torch.nan), "var": torch.ones(6, 4, 4)}, "damaged"),
        ([1, 2], "lacks the tensors"),
        (torch.zeros(3), "lacks the tensors"),
    ],
)
def test_a_torch_file_that_holds_something_else_is_refused(tmp_path, held, message):
    path = tmp_path / "other.pt"
    torch.save(held, path)
    with pytest.raises(LatentError, match=message) as error:
        read_statistics(path, TINY_DINOV2)
    assert "other.pt" in str(error.value)


def test_code_in_a_statistics_file_is_not_run(tmp_path):
    torch.save({"mean": Attack(), "var": Attack()}, tmp_path / "stat.pt")
    with pytest.raises(LatentError, match="nothing was run"):
        read_statistics(tmp_path / "stat.pt", DINOV2)


@pytest.mark.parametrize("content", [b"", b"not a file of ours", b"\x80\x04", b"\x80\x02K"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_damaged_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LatentError, match=name):
        read_statistics(tmp_path / name, FLUX2)


def test_a_vae_without_batch_norm_is_refused_naming_the_keys(tmp_path):
    save_file({"encoder.conv_in.weight": torch.zeros(1)}, tmp_path / "ae.safetensors")
    with pytest.raises(LatentError, match=r"bn\.running_mean"):
        read_statistics(tmp_path / "ae.safetensors", FLUX2)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(LatentError, match="does not exist"):
        read_statistics(tmp_path / "vae.safetensors", FLUX2)
