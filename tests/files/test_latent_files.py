"""Latent files: what is written comes back, and nothing else is taken for a latent."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latpix.errors import LatentError, OutputError
from latpix.files.latent_files import LATENT_SUFFIXES, Latent, read_latent, save_latent

TENSOR = torch.randn(2, 16, 3, 5, generator=torch.Generator().manual_seed(0))
LATENT = Latent(
    tensor=TENSOR,
    space="flux1",
    latent_sigma=0.25,
    caption="Katze 🐈",
    seed=7,
    source="cat.png",
    native_height=24,
    native_width=39,
)


class Attack:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def write(path, tensor, **arrays):
    """A latent in each of the formats, as other programs write them."""
    if path.suffix == ".npy":
        np.save(path, tensor.numpy())
    elif path.suffix == ".npz":
        np.savez(path, **(arrays or {"any": tensor.numpy()}))
    elif path.suffix == ".pt":
        torch.save(tensor, path)
    else:
        save_file({"samples": tensor}, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_latent_comes_back_with_its_story(tmp_path, dtype):
    save_latent(replace(LATENT, tensor=TENSOR.to(dtype)), tmp_path / "a.safetensors")
    back = read_latent(tmp_path / "a.safetensors")
    assert back.tensor.dtype == torch.float32
    assert torch.equal(back.tensor, TENSOR.to(dtype).float())
    assert {**vars(back), "tensor": None} == {**vars(LATENT), "tensor": None}


def test_what_is_not_known_stays_unknown(tmp_path):
    save_latent(Latent(tensor=TENSOR, space="flux1"), tmp_path / "a.safetensors")
    back = read_latent(tmp_path / "a.safetensors")
    assert (back.latent_sigma, back.caption, back.seed, back.source, back.native_height) == (
        0.0,
        None,
        None,
        None,
        None,
    )


@pytest.mark.parametrize("suffix", LATENT_SUFFIXES)
def test_every_format_is_read_when_the_space_is_named(tmp_path, suffix):
    back = read_latent(write(tmp_path / f"a{suffix}", TENSOR), space="flux1", latent_sigma=0.5)
    assert torch.equal(back.tensor, TENSOR)
    assert (back.space, back.latent_sigma) == ("flux1", 0.5)


@pytest.mark.parametrize("suffix", LATENT_SUFFIXES)
def test_a_file_that_does_not_name_its_space_is_refused_without_one(tmp_path, suffix):
    with pytest.raises(LatentError, match="which latent space"):
        read_latent(write(tmp_path / f"a{suffix}", TENSOR))


def test_a_space_that_contradicts_the_file_is_refused(tmp_path):
    save_latent(LATENT, tmp_path / "a.safetensors")
    with pytest.raises(LatentError, match='of space "flux1", not "sd3"'):
        read_latent(tmp_path / "a.safetensors", space="sd3")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floating_point_arrays_are_read(tmp_path, dtype):
    array = TENSOR.numpy().astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(
        read_latent(tmp_path / "a.npy", space="flux1").tensor.numpy(), array.astype(np.float32)
    )


def test_a_dictionary_with_one_tensor_is_read_from_a_torch_file(tmp_path):
    torch.save({"samples": TENSOR, "note": "hello"}, tmp_path / "a.pt")
    assert torch.equal(read_latent(tmp_path / "a.pt", space="flux1").tensor, TENSOR)
    torch.save({"a": TENSOR, "b": TENSOR}, tmp_path / "b.pt")
    with pytest.raises(LatentError, match="holds a dict; expected one tensor"):
        read_latent(tmp_path / "b.pt", space="flux1")


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(LatentError, match="could run code"):
        read_latent(path, space="flux1")


def test_code_inside_a_torch_file_or_an_array_of_objects_is_refused_and_not_run(tmp_path):
    torch.save({"latent": TENSOR, "extra": Attack()}, tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", np.array([Attack()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", np.array([Attack()], dtype=object), allow_pickle=True)
    for name in ("a.pt", "a.npy"):
        with pytest.raises(LatentError, match="could run code"):
            read_latent(tmp_path / name, space="flux1")
    with pytest.raises(LatentError):
        read_latent(tmp_path / "a.npz", space="flux1")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TENSOR[0], r"has 3 dimensions \(16x3x5\)"),
        (torch.tensor(1.0), r"has 0 dimensions"),
        (torch.zeros(1, 16, 0, 4), "is empty: 1x16x0x4"),
        (torch.full((1, 16, 2, 2), torch.nan), "64 of 64 values that are NaN"),
        (torch.zeros(1, 16, 2, 2).index_fill(1, torch.tensor(3), torch.inf), "4 of 64 values"),
        (torch.zeros(1, 16, 2, 2, dtype=torch.int64), "int64"),
    ],
)
@pytest.mark.parametrize("suffix", LATENT_SUFFIXES)
def test_what_cannot_be_a_latent_is_refused(tmp_path, suffix, tensor, message):
    with pytest.raises(LatentError, match=message):
        read_latent(write(tmp_path / f"a{suffix}", tensor), space="flux1")
    if suffix == ".safetensors":
        with pytest.raises(LatentError, match=message):
            save_latent(Latent(tensor=tensor, space="flux1"), tmp_path / "b.safetensors")
        assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("suffix", LATENT_SUFFIXES)
def test_a_truncated_file_noise_and_an_empty_one_are_refused(tmp_path, suffix):
    whole = write(tmp_path / f"a{suffix}", TENSOR).read_bytes()
    for content, message in [(whole[: len(whole) // 2], '"'), (bytes(range(256)), '"'), (b"", r"is empty \(0 bytes\)")]:
        (tmp_path / f"b{suffix}").write_bytes(content)
        with pytest.raises(LatentError, match=message):
            read_latent(tmp_path / f"b{suffix}", space="flux1")


def test_a_missing_file_a_folder_and_an_unknown_suffix_are_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "folder.npy").mkdir()
    for name, message in [
        ("no.npy", "does not exist"),
        ("folder.npy", "is a folder"),
        ("a.bin", "expected one of .safetensors, .npy"),
    ]:
        with pytest.raises(LatentError, match=message):
            read_latent(tmp_path / name)


def test_an_archive_of_several_arrays_is_refused_with_their_names(tmp_path):
    array = TENSOR.numpy()
    with pytest.raises(LatentError, match='exactly one array, found "mean", "latent"'):
        read_latent(write(tmp_path / "a.npz", TENSOR, mean=array, latent=array), space="flux1")


def test_a_checkpoint_is_not_taken_for_a_latent(tmp_path):
    save_file({f"blocks.{number}.weight": torch.zeros(2) for number in range(20)}, tmp_path / "a.safetensors")
    with pytest.raises(LatentError, match=r'one tensor "latent", found .* and 12 more'):
        read_latent(tmp_path / "a.safetensors", space="flux1")


@pytest.mark.parametrize(
    ("story", "message"),
    [
        ({"latent_sigma": "1.5"}, "latent_sigma is 1.5; expected 0"),
        ({"latent_sigma": "nan"}, "latent_sigma is nan"),
        ({"latent_sigma": "much"}, 'latent_sigma is "much"; expected a number'),
        ({"seed": "0.5"}, 'seed is "0.5"; expected a number'),
    ],
)
def test_a_story_that_cannot_be_true_is_refused(tmp_path, story, message):
    metadata = {"format": "latpix-latent-1", "space": "flux1", **story}
    save_file({"latent": TENSOR}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(LatentError, match=message):
        read_latent(tmp_path / "a.safetensors")


@pytest.mark.parametrize("latent_sigma", [-0.1, 1.01, float("nan")])
def test_a_latent_sigma_outside_0_to_1_is_neither_taken_nor_written(tmp_path, latent_sigma):
    save_latent(LATENT, tmp_path / "a.safetensors")
    with pytest.raises(LatentError, match="expected 0"):
        read_latent(tmp_path / "a.safetensors", latent_sigma=latent_sigma)
    with pytest.raises(LatentError, match="expected 0"):
        save_latent(replace(LATENT, latent_sigma=latent_sigma), tmp_path / "b.safetensors")


def test_an_existing_latent_is_replaced_only_when_asked(tmp_path):
    save_latent(LATENT, tmp_path / "a.safetensors")
    with pytest.raises(OutputError, match="exists already"):
        save_latent(LATENT, tmp_path / "a.safetensors")
    save_latent(replace(LATENT, seed=8), tmp_path / "a.safetensors", overwrite=True)
    assert read_latent(tmp_path / "a.safetensors").seed == 8


def test_latents_are_written_as_safetensors_only(tmp_path):
    with pytest.raises(OutputError, match=r"as \.safetensors"):
        save_latent(LATENT, tmp_path / "a.npy")
