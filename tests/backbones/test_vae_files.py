"""VAEs from files: every spelling of the names gives the same latents, sizes come from shapes, wrong files are told."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from made_pictures import dead_leaves
from safetensors.torch import save_file
from tiny_vaes import BUILD, LEVELS, NO_QUANT, tiny_vae

from latpix.backbones.vae import Vae
from latpix.backbones.vae_files import config_of, load_vae_file, load_vae_folder
from latpix.backbones.vae_keys import diffusers_to_ldm, diffusers_to_wan_2d, ldm_to_diffusers, wan_to_diffusers
from latpix.errors import CheckpointError
from latpix.latents.spaces import find_space

LDM_SPACES = ("flux1", "sd3", "sdxl", "flux2")
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
PICTURE = dead_leaves(48, 64, seed=5, count=100)


@pytest.fixture(scope="module")
def modules():
    return {space: tiny_vae(space) for space in BUILD}


def write(state, path):
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def same_bits(module, loaded, space):
    ours, theirs = Vae.of(loaded, space), Vae.of(module, space)
    latent = theirs.encode(PICTURE)
    return torch.equal(ours.encode(PICTURE), latent) and torch.equal(ours.decode(latent), theirs.decode(latent))


@pytest.mark.parametrize("space", LDM_SPACES)
def test_a_file_in_ldm_names_gives_the_latents_of_its_module(tmp_path, modules, space):
    names = diffusers_to_ldm(modules[space].state_dict())
    assert not any("_blocks" in name or "resnets" in name or "to_" in name for name in names)
    path = write(names, tmp_path / "ae.safetensors")
    assert same_bits(modules[space], load_vae_file(path, space, **CPU), space)


@pytest.mark.parametrize("space", BUILD)
def test_a_file_in_diffusers_names_gives_the_latents_of_its_module(tmp_path, modules, space):
    path = write(modules[space].state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    assert same_bits(modules[space], load_vae_file(path, space, **CPU), space)


def test_qwens_slices_give_the_latents_of_the_whole(tmp_path, modules):
    slices = diffusers_to_wan_2d(modules["qwen"].state_dict())
    assert max(tensor.ndim for tensor in slices.values()) == 4
    assert not any("time_conv" in name for name in slices)
    path = write(slices, tmp_path / "QwenImage_VAE_2d.pth")
    assert same_bits(modules["qwen"], load_vae_file(path, "qwen", **CPU), "qwen")


@pytest.mark.parametrize(
    ("ldm", "ours"),
    [
        ("encoder.conv_in.weight", "encoder.conv_in.weight"),
        ("encoder.down.2.block.1.norm1.weight", "encoder.down_blocks.2.resnets.1.norm1.weight"),
        ("encoder.down.1.block.0.nin_shortcut.bias", "encoder.down_blocks.1.resnets.0.conv_shortcut.bias"),
        ("encoder.down.0.downsample.conv.weight", "encoder.down_blocks.0.downsamplers.0.conv.weight"),
        ("decoder.up.3.block.2.conv2.weight", "decoder.up_blocks.0.resnets.2.conv2.weight"),
        ("decoder.up.1.upsample.conv.bias", "decoder.up_blocks.2.upsamplers.0.conv.bias"),
        ("decoder.up.0.block.0.nin_shortcut.weight", "decoder.up_blocks.3.resnets.0.conv_shortcut.weight"),
        ("encoder.mid.block_1.conv1.bias", "encoder.mid_block.resnets.0.conv1.bias"),
        ("decoder.mid.block_2.norm2.bias", "decoder.mid_block.resnets.1.norm2.bias"),
        ("encoder.mid.attn_1.norm.weight", "encoder.mid_block.attentions.0.group_norm.weight"),
        ("encoder.mid.attn_1.proj_out.bias", "encoder.mid_block.attentions.0.to_out.0.bias"),
        ("decoder.mid.attn_1.v.weight", "decoder.mid_block.attentions.0.to_v.weight"),
        ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
        ("encoder.quant_conv.weight", "quant_conv.weight"),
        ("decoder.post_quant_conv.bias", "post_quant_conv.bias"),
        ("bn.running_var", "bn.running_var"),
    ],
)
def test_ldm_names_are_these(ldm, ours):
    levels = {f"decoder.up.{i}.block.0.norm1.weight": torch.ones(1) for i in range(4)}
    assert next(iter(ldm_to_diffusers({ldm: torch.ones(1, 1, 1, 1), **levels}))) == ours


@pytest.mark.parametrize(
    ("wan", "ours"),
    [
        ("conv1.weight", "quant_conv.weight"),
        ("conv2.bias", "post_quant_conv.bias"),
        ("encoder.conv1.weight", "encoder.conv_in.weight"),
        ("decoder.head.0.gamma", "decoder.norm_out.gamma"),
        ("encoder.head.2.bias", "encoder.conv_out.bias"),
        ("encoder.downsamples.4.residual.0.gamma", "encoder.down_blocks.4.norm1.gamma"),
        ("encoder.downsamples.3.shortcut.bias", "encoder.down_blocks.3.conv_shortcut.bias"),
        ("encoder.downsamples.2.resample.1.weight", "encoder.down_blocks.2.resample.1.weight"),
        ("encoder.middle.1.to_qkv.weight", "encoder.mid_block.attentions.0.to_qkv.weight"),
        ("decoder.middle.2.residual.6.bias", "decoder.mid_block.resnets.1.conv2.bias"),
        ("decoder.upsamples.6.residual.2.bias", "decoder.up_blocks.1.resnets.2.conv1.bias"),
        ("decoder.upsamples.7.resample.1.bias", "decoder.up_blocks.1.upsamplers.0.resample.1.bias"),
        ("decoder.upsamples.12.residual.3.gamma", "decoder.up_blocks.3.resnets.0.norm2.gamma"),
    ],
)
def test_wan_names_are_these(wan, ours):
    levels = {f"decoder.upsamples.{n}.resample.1.weight": torch.ones(1, 1, 3, 3) for n in (3, 7, 11)}
    assert next(iter(wan_to_diffusers({wan: torch.ones(1), **levels}))) == ours


def test_the_real_sizes_come_out_of_the_shapes():
    with torch.device("meta"):
        real = AutoencoderKL(
            **LEVELS | {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
            **NO_QUANT,
            latent_channels=16,
        )
    names = diffusers_to_ldm(real.state_dict())
    assert len(names) == 244
    config = config_of(ldm_to_diffusers(names), find_space("flux1"))
    expected = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}
    expected |= {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159, **NO_QUANT}
    assert {key: config[key] for key in expected} == expected


def test_qwens_real_sizes_come_out_of_the_shapes_of_its_186_slices():
    from diffusers import AutoencoderKLQwenImage

    with torch.device("meta"):
        real = AutoencoderKLQwenImage()
    slices = diffusers_to_wan_2d(real.state_dict())
    assert len(slices) == 186
    config = config_of(wan_to_diffusers(slices), find_space("qwen"))
    assert config["temperal_downsample"] == [False] * 3  # what convolves along time is not in the file
    for key in ("base_dim", "z_dim", "dim_mult", "num_res_blocks"):
        assert config[key] == real.config[key]
    assert list(config["latents_mean"]) == real.config.latents_mean


def test_a_file_of_half_precision_is_loaded_in_the_type_asked_for_but_for_its_statistics(tmp_path, modules):
    state = {name: t.half() if t.is_floating_point() else t for name, t in modules["flux2"].state_dict().items()}
    path = write(state, tmp_path / "flux2_ae.safetensors")
    module = load_vae_file(path, "flux2", device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert torch.equal(module.bn.running_mean, state["bn.running_mean"])


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_is_read_with_its_own_numbers_and_so_is_a_pipelines(tmp_path, nested):
    module = tiny_vae("flux1")
    module.register_to_config(scaling_factor=0.4)
    module.save_pretrained(tmp_path / "pipeline" / "vae")
    folder = tmp_path / "pipeline" if nested else tmp_path / "pipeline" / "vae"
    loaded = load_vae_folder(folder, "flux1", **CPU)
    assert loaded.config.scaling_factor == 0.4
    assert same_bits(module, loaded, "flux1")


def test_old_names_of_an_attention_are_known(tmp_path, modules):
    new = ("to_q.", "to_k.", "to_v.", "to_out.0.")
    state = modules["sdxl"].state_dict()
    for name, old in zip(new, ("query.", "key.", "value.", "proj_attn."), strict=True):
        state = {key.replace(name, old): tensor for key, tensor in state.items()}
    path = write(state, tmp_path / "old.safetensors")
    assert same_bits(modules["sdxl"], load_vae_file(path, "sdxl", **CPU), "sdxl")


@pytest.mark.parametrize("space", ["flux1", "qwen"])
def test_missing_and_strange_tensors_are_named(tmp_path, modules, space):
    state = diffusers_to_ldm(modules[space].state_dict()) if space == "flux1" else modules[space].state_dict()
    gone = next(name for name in state if name.startswith("decoder.mid"))
    path = write({k: t for k, t in state.items() if k != gone} | {"loss.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"missing decoder\.mid_block.*strange loss\.weight"):
        load_vae_file(path, space, **CPU)


def test_a_tensor_of_another_shape_is_named(tmp_path, modules):
    state = modules["flux1"].state_dict() | {"decoder.conv_out.bias": torch.ones(4)}
    with pytest.raises(CheckpointError, match=r"decoder\.conv_out\.bias is \[4\], expected \[3\]"):
        load_vae_file(write(state, tmp_path / "a.safetensors"), "flux1", **CPU)


@pytest.mark.parametrize(("held", "asked"), [("flux2", "flux1"), ("flux1", "qwen"), ("qwen", "sd3"), ("sdxl", "flux2")])
def test_a_file_of_another_kind_is_refused_with_both_names(tmp_path, modules, held, asked):
    path = write(modules[held].state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=rf'{type(modules[held]).__name__}, but latents of space "{asked}"'):
        load_vae_file(path, asked, **CPU)


class Code:
    """What a pickle could run."""

    def __reduce__(self):
        return (print, ("ran",))


def test_what_is_no_vae_is_refused(tmp_path, capsys):
    (tmp_path / "text.safetensors").write_text("text")
    torch.save({"model": Code()}, tmp_path / "code.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pth")
    (tmp_path / "notes.txt").write_text("text")
    messages = {
        "text.safetensors": "damaged",
        "code.pth": "nothing was run",
        "list.pth": "no table of tensors",
        "other.pth": "no VAE that is known here: it holds weight",
        "notes.txt": "no file of weights",
        "absent.pth": "does not exist",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            load_vae_file(tmp_path / name, "flux1", **CPU)
    assert "ran" not in capsys.readouterr().out


def test_a_folder_without_a_vae_or_with_another_is_refused(tmp_path, modules):
    with pytest.raises(CheckpointError, match=r"expected config\.json"):
        load_vae_folder(tmp_path, "flux1", **CPU)
    modules["flux2"].save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r'holds AutoencoderKLFlux2, but latents of space "flux1"'):
        load_vae_folder(tmp_path, "flux1", **CPU)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match="JSON object"):
        load_vae_folder(tmp_path, "flux2", **CPU)
