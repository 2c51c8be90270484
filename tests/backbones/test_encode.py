"""One call finds the codec of every space: shipped, from files and folders, or told what to do without the hub."""

import json
import re
import shutil

import pytest
import torch
from made_pictures import dead_leaves
from safetensors.torch import load_file, save_file
from tiny_raes import TINY, write_encoder, write_rae_files
from tiny_vaes import BUILD, tiny_vae

from latpix import resources
from latpix.backbones.codec import Codec
from latpix.backbones.encode import load_codec
from latpix.backbones.rae_files import load_rae
from latpix.backbones.vae import Vae
from latpix.backbones.vae_keys import diffusers_to_ldm
from latpix.errors import CheckpointError, DownloadError, LatentError, OptionError
from latpix.latents.normalize import read_statistics
from latpix.latents.spaces import LATENT_SPACES

CPU = {"device": "cpu", "dtype": "float32"}
PICTURE = dead_leaves(32, 48, seed=2, count=60)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each space's VAE as diffusers saves it."""
    folder = tmp_path_factory.mktemp("vaes")
    for space in BUILD:
        tiny_vae(space).save_pretrained(folder / space)
    return folder


def test_flux2_without_a_vae_is_the_shipped_codec():
    for given in ({}, {"vae": "flux2-lite"}, {"vae": resources.weight("flux2-lite")}):
        assert isinstance(load_codec("flux2", **given, **CPU), Codec)


@pytest.mark.parametrize("space", BUILD)
def test_a_vaes_folder_file_and_pipeline_give_the_same_latents(tmp_path, folders, space):
    weights = folders / space / "diffusion_pytorch_model.safetensors"
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "vae").symlink_to(folders / space)
    expected = Vae.of(tiny_vae(space), space).encode(PICTURE)
    pipeline = {"model": tmp_path / "pipeline"}
    for given in ({"vae": folders / space}, {"vae": str(weights)}, {"vae": tmp_path / "pipeline"}, pipeline):
        codec = load_codec(space, **given, **CPU)
        assert torch.equal(codec.encode(PICTURE), expected)
        assert (codec.space, codec.native_side, codec.dtype) == (space, None, torch.float32)
        assert codec.downsample == LATENT_SPACES[space].downsample


def test_upstreams_file_is_taken_in_its_own_names(tmp_path):
    module = tiny_vae("flux2")
    save_file(diffusers_to_ldm(module.state_dict()), tmp_path / "flux2_ae.safetensors")
    codec = load_codec("flux2", vae=tmp_path / "flux2_ae.safetensors", **CPU)
    assert torch.equal(codec.encode(PICTURE), Vae.of(module, "flux2").encode(PICTURE))


def test_the_vae_that_is_named_goes_before_the_pipelines(tmp_path, folders):
    tiny_vae("sd3", seed=1).save_pretrained(tmp_path / "other")
    codec = load_codec("sd3", vae=tmp_path / "other", model=folders / "sd3", **CPU)
    assert torch.equal(codec.encode(PICTURE), Vae.of(tiny_vae("sd3", seed=1), "sd3").encode(PICTURE))


def test_no_vae_runs_in_float16_but_in_the_others(folders):
    kinds = {"float16": torch.float32, "bfloat16": torch.bfloat16, "float32": torch.float32}
    for dtype, computed in kinds.items():
        assert load_codec("sdxl", vae=folders / "sdxl", device="cpu", dtype=dtype).dtype == computed


def test_a_memory_limit_reaches_the_vae(folders):
    assert load_codec("flux1", vae=folders / "flux1", memory_limit="100MB", **CPU).tiles(64, 64)
    with pytest.raises(OptionError, match="memory size"):
        load_codec("flux1", vae=folders / "flux1", memory_limit="lots", **CPU)


@pytest.mark.parametrize("space", ["flux1", "sd3", "sdxl", "qwen", "dinov2", "siglip"])
def test_without_the_hub_one_is_told_what_to_bring(space):
    with pytest.raises(DownloadError, match=r"no connection|HF_HUB_OFFLINE") as refusal:
        load_codec(space, **CPU)
    assert "By hand: `hf download" in str(refusal.value)
    assert "--vae DIR" in str(refusal.value) or "--model DIR" in str(refusal.value)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Puts a folder where the hub's library keeps a repository that it has downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository, folder, inside=""):
        home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / ("0" * 40) / inside)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("0" * 40)

    return put


def test_the_default_is_the_vae_in_the_repository_of_the_backbones_pipeline(cached, folders):
    cached("black-forest-labs/FLUX.1-dev", folders / "flux1", "vae")
    assert torch.equal(load_codec("flux1", **CPU).encode(PICTURE), Vae.of(tiny_vae("flux1"), "flux1").encode(PICTURE))


def test_a_hub_id_may_be_a_vaes_own(cached, folders):
    cached("somebody/sdxl-vae-fix", folders / "sdxl")
    codec = load_codec("sdxl", vae="somebody/sdxl-vae-fix", **CPU)
    assert torch.equal(codec.encode(PICTURE), Vae.of(tiny_vae("sdxl"), "sdxl").encode(PICTURE))
    with pytest.raises(
        CheckpointError, match='"somebody/sdxl-vae-fix" holds AutoencoderKL; expected AutoencoderKLFlux2'
    ):
        load_codec("flux2", vae="somebody/sdxl-vae-fix", **CPU)


def test_a_raes_parts_come_from_their_repositories(cached, tmp_path):
    row = LATENT_SPACES["dinov2"]
    cached("facebook/dinov2-with-registers-base", write_encoder(tmp_path / "encoder", row))
    cached("nvidia/PiD", write_rae_files(tmp_path / "files", row), "checkpoints")
    codec = load_codec("dinov2", **CPU)
    assert codec.decode(codec.encode(PICTURE)).shape == (1, 3, 512, 512)


@pytest.mark.parametrize(
    ("space", "vae", "error", "message"),
    [
        ("flux9", None, LatentError, "no latent space is called"),
        ("flux1", "flux2-lite", CheckpointError, 'to space "flux2", not to "flux1"'),
        ("flux1", "nowhere/to/be", CheckpointError, "expected a file.*hub id such as black-forest-labs/FLUX.1-dev"),
        ("flux2", "flux3-lite", CheckpointError, 'expected "flux2-lite", a file'),
        ("flux1", "gone.safetensors", CheckpointError, "does not exist"),
        ("flux2", "gone.safetensors", CheckpointError, "does not exist"),
    ],
)
def test_what_is_no_codec_is_refused(space, vae, error, message):
    with pytest.raises(error, match=message):
        load_codec(space, vae=vae, **CPU)


def test_a_vae_of_another_space_is_refused(folders):
    with pytest.raises(CheckpointError, match="holds AutoencoderKLQwenImage"):
        load_codec("flux1", vae=folders / "qwen", **CPU)
    with pytest.raises(CheckpointError, match=r'scales its latents by 0.3611, as space "flux1"'):
        load_codec("sd3", vae=folders / "flux1", **CPU)


@pytest.mark.parametrize("space", TINY)
def test_a_rae_is_loaded_from_a_folder_and_upstreams_layout(tmp_path, space):
    row, cpu = TINY[space], {"device": torch.device("cpu"), "dtype": torch.float32}
    model = write_encoder(tmp_path / "encoder", row)
    write_rae_files(tmp_path / "repository" / "checkpoints", row)
    found = [
        load_rae(row, model=model, files=files, **cpu)
        for files in (tmp_path / "repository", tmp_path / "repository" / "checkpoints")
    ]
    latents = [codec.encode(PICTURE) for codec in found]
    assert torch.equal(*latents)
    assert torch.equal(*(codec.decode(latents[0]) for codec in found))


def test_encoding_needs_no_decoder_and_decoding_names_what_is_missing(tmp_path):
    row, cpu = TINY["dinov2"], {"device": torch.device("cpu"), "dtype": torch.float32}
    model = write_encoder(tmp_path / "encoder", row)
    files = write_rae_files(tmp_path / "files", row, decoder=False)
    codec = load_rae(row, model=model, files=files, **cpu)
    latent = codec.encode(PICTURE)
    with pytest.raises(CheckpointError, match=r"lacks rae/decoders/dinov2.*model\.pt"):
        codec.decode(latent)
    with pytest.raises(CheckpointError, match=r"lacks rae/stats/dinov2.*\n.*hf download nvidia/PiD"):
        load_rae(row, model=model, files=tmp_path, **cpu)
    (tmp_path / "notes").write_text("")
    with pytest.raises(CheckpointError, match="neither a folder nor a hub repository"):
        load_rae(row, model=model, files=tmp_path / "notes", **cpu)


def test_siglip_is_read_from_the_whole_model_and_from_the_tower_in_every_spelling(tmp_path):
    row, cpu = TINY["siglip"], {"device": torch.device("cpu"), "dtype": torch.float32}
    whole = write_encoder(tmp_path / "whole", row)
    tensors = load_file(whole / "model.safetensors")
    tower = {name: t for name, t in tensors.items() if name.startswith("vision_model.")}
    config = json.loads((whole / "config.json").read_text())["vision_config"] | {"model_type": "siglip_vision_model"}
    for name, state in {"old": tower, "new": {k.removeprefix("vision_model."): t for k, t in tower.items()}}.items():
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    expected = load_rae(row, model=whole, **cpu).encode(PICTURE)
    for name in ("old", "new"):
        assert torch.equal(load_rae(row, model=tmp_path / name, **cpu).encode(PICTURE), expected)
    del tower["vision_model.post_layernorm.bias"]
    save_file(tower, tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing \['post_layernorm\.bias'\]"):
        load_rae(row, model=tmp_path / "old", **cpu)


def test_loading_an_encoder_says_nothing_of_its_own(tmp_path, capfd):
    row = TINY["siglip"]
    load_rae(row, model=write_encoder(tmp_path / "a", row), device=torch.device("cpu"), dtype=torch.float32)
    capfd.readouterr()  # saving it did
    load_rae(row, model=tmp_path / "a", device=torch.device("cpu"), dtype=torch.float32)
    assert capfd.readouterr() == ("", "")


def test_a_wrong_encoder_is_refused(tmp_path):
    siglip = write_encoder(tmp_path / "siglip", TINY["siglip"])
    dinov2 = write_encoder(tmp_path / "dinov2", TINY["dinov2"])
    with pytest.raises(CheckpointError, match=r'of type "siglip", but latents of space "dinov2"'):
        load_codec("dinov2", model=siglip, **CPU)
    with pytest.raises(CheckpointError, match=r"states of 32 channels.*have 1152"):
        load_codec("siglip", model=siglip, **CPU)
    with pytest.raises(CheckpointError, match=r"states of 32 channels.*have 768"):
        load_codec("dinov2", model=dinov2, **CPU)
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        load_codec("dinov2", model=tmp_path / "gone", **CPU)


def test_a_configuration_that_is_not_the_decoders_is_refused(tmp_path):
    row, cpu = TINY["siglip"], {"device": torch.device("cpu"), "dtype": torch.float32}
    model, files = write_encoder(tmp_path / "encoder", row), write_rae_files(tmp_path / "files", row)
    (config,) = files.rglob("*.json")
    config.write_text(json.dumps({"decoder_num_attention_heads": 4, "patch_size": 16}))
    codec = load_rae(row, model=model, files=files, **cpu)
    with pytest.raises(CheckpointError, match=re.escape('{"patch_size": 16}')):
        codec.decode(codec.encode(PICTURE))


def test_statistics_of_another_size_are_refused(tmp_path):
    files = write_rae_files(tmp_path, TINY["dinov2"], decoder=False)
    (path,) = files.rglob("stat.pt")
    with pytest.raises(LatentError, match="768"):
        read_statistics(path, LATENT_SPACES["dinov2"])
