"""VAEs from files: upstream's single files in LDM's or Wan's names, and diffusers' files and folders.

    file -> tensors -> diffusers' names -> sizes, which the tensors' shapes tell -> module, loaded strictly

What shapes cannot tell (scaling and shift) is the latent space's; a folder's ``config.json`` has its own.
"""

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from latpix.backbones.registry import encoder_of
from latpix.backbones.vae_keys import State, cast, is_ldm, is_wan, ldm_to_diffusers, old_to_diffusers, wan_to_diffusers
from latpix.errors import CheckpointError, MissingExtraError
from latpix.files.inputs import check_input
from latpix.latents.spaces import Affine, LatentSpace, PerChannel, find_space

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
WEIGHTS = tuple(f"diffusion_pytorch_model{end}" for end in (".safetensors", ".fp16.safetensors", ".bin"))
TILE = 1024  # pixels a side of diffusers' tiles, as the published configurations say
GROUPS = 32  # of the group norms, wherever the widths allow; no file says it


def load_vae_file(path: str | Path, space: str, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A VAE from one file, such as ``ae.safetensors``, ``flux2_ae.safetensors`` or ``QwenImage_VAE_2d.pth``.

    Args:
        path: weights in LDM's, Wan's or diffusers' names, of any size.
        space: of the latents; its numbers become the configuration's.
        device, dtype: where it goes, and in which type.

    Raises:
        CheckpointError: it is no such file, or the VAE of another space.
        MissingExtraError: diffusers is not installed.
    """
    row = find_space(space)
    state = diffusers_names(read_weights(path))
    if not any(name.startswith("decoder.conv_in.") for name in state) or "encoder.conv_in.weight" not in state:
        raise CheckpointError(
            f'"{path}" is no VAE that is known here: it holds {_listed(state)}. Expected an encoder and a decoder, as '
            f'{encoder_of(space).file} has them for space "{space}".'
        )
    found, expected = class_of(state), encoder_of(space).class_name
    if found != expected:
        raise CheckpointError(f'"{path}" holds an {found}, but latents of space "{space}" are made by {expected}.')
    try:
        config = config_of(state, row)
    except (KeyError, IndexError) as error:
        raise CheckpointError(f'"{path}" is no whole {found}: it lacks {error}.') from error
    return build(found, config, state, str(path), device=device, dtype=dtype)


def load_vae_folder(folder: str | Path, space: str, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A VAE from a folder as diffusers writes it: ``config.json`` and the weights; or a pipeline's, with it in ``vae``.

    Raises:
        CheckpointError: it is none, or that of another space.
        MissingExtraError: diffusers is not installed.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() and (folder / "vae").is_dir():
        folder = folder / "vae"
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not (folder / "config.json").is_file() or not files:
        raise CheckpointError(
            f'"{folder}" is no folder of a VAE: expected config.json and {WEIGHTS[0]} in it, or in "vae" in it.'
        )
    config = read_config(folder / "config.json")
    found, expected = config.get("_class_name"), encoder_of(space).class_name
    if found != expected:
        raise CheckpointError(f'"{folder}" holds {found}, but latents of space "{space}" are made by {expected}.')
    state = diffusers_names(read_weights(files[0]))
    return build(expected, config, state, str(files[0]), device=device, dtype=dtype)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of weights; nothing in it is run.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    path = check_input(path, CheckpointError, "a file of weights")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f'"{path}" is no file of weights; expected one of {", ".join(SUFFIXES)}.')
    try:
        held = load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except (SafetensorError, pickle.UnpicklingError, LookupError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f'"{path}" is damaged, of another format, or holds Python objects (of which nothing was run).'
        ) from error
    if isinstance(held, Mapping) and isinstance(held.get("state_dict"), Mapping):
        held = held["state_dict"]
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise CheckpointError(f'"{path}" holds no table of tensors.')
    return dict(held)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: it is none.
    """
    try:
        config = json.loads(check_input(path, CheckpointError, "a configuration").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f'"{path}" is no JSON: {error}.') from error
    if not isinstance(config, dict):
        raise CheckpointError(f'"{path}" holds no configuration, which is a JSON object.')
    return config


def diffusers_names(state: State) -> dict[str, Tensor]:
    """The same tensors under diffusers' names, whosever they were."""
    if is_ldm(state):
        return ldm_to_diffusers(state)
    return wan_to_diffusers(state) if is_wan(state) else old_to_diffusers(state)


def class_of(state: State) -> str:
    """The class of diffusers that has these tensors."""
    if state["encoder.conv_in.weight"].ndim == 5:
        return "AutoencoderKLQwenImage"
    return "AutoencoderKLFlux2" if "bn.running_mean" in state else "AutoencoderKL"


def config_of(state: State, space: LatentSpace) -> dict[str, Any]:
    """Sizes from the tensors' shapes, and the space's numbers."""
    return _config_3d(state, space) if state["encoder.conv_in.weight"].ndim == 5 else _config_2d(state, space)


def _config_2d(state: State, space: LatentSpace) -> dict[str, Any]:
    """Of AutoencoderKL and AutoencoderKLFlux2."""
    levels = 1 + max(_numbers(state, r"encoder\.down_blocks\.(\d+)\."))
    widths = [state[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)]
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(widths),
        "layers_per_block": 1 + max(_numbers(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "norm_num_groups": GROUPS if all(width % GROUPS == 0 for width in widths) else max(1, min(widths) // 2),
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
        "sample_size": TILE,
    }
    rule = space.normalization
    return config | ({"scaling_factor": rule.scale, "shift_factor": rule.shift} if isinstance(rule, Affine) else {})


def _config_3d(state: State, space: LatentSpace) -> dict[str, Any]:
    """Of AutoencoderKLQwenImage. Slices convolve along no time, which one frame does not notice."""
    layers = range(1 + max(_numbers(state, r"encoder\.down_blocks\.(\d+)\.")))
    ends = [n for n in layers if f"encoder.down_blocks.{n}.resample.1.weight" in state]  # of the levels but the last
    base = state["encoder.conv_in.weight"].shape[0]
    last = [*(n - 1 for n in ends), layers[-1]]  # residual blocks
    widths = [state[f"encoder.down_blocks.{n}.conv2.weight"].shape[0] for n in last]
    rule = space.normalization
    config = {
        "base_dim": base,
        "z_dim": state["decoder.conv_in.weight"].shape[1],
        "dim_mult": [width // base for width in widths],
        "num_res_blocks": ends[0],
        "temperal_downsample": [f"encoder.down_blocks.{n}.time_conv.weight" in state for n in ends],
    }
    return config | ({"latents_mean": rule.mean, "latents_std": rule.std} if isinstance(rule, PerChannel) else {})


def build(
    class_name: str, config: Mapping[str, Any], state: State, name: str, *, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """A VAE of diffusers with these tensors, and no others.

    Raises:
        CheckpointError: a tensor is missing, strange or of another shape.
        MissingExtraError: diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError.of("backbones", "diffusers") from error
    with torch.device("meta"):  # no memory, and no time to draw weights that are not kept
        module: nn.Module = getattr(diffusers, class_name).from_config(dict(config))
    expected = module.state_dict()
    count = {"bn.num_batches_tracked": torch.tensor(0)} if "bn.num_batches_tracked" in expected else {}
    weights = cast({**count, **state}, dtype)  # the count is of training, and not in every file
    missing, strange = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or strange:
        raise CheckpointError(
            f'"{name}" is no {class_name} of its size: missing {_listed(missing)}; strange {_listed(strange)}.'
        )
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(f'"{name}": {key} is {list(tensor.shape)}, expected {list(expected[key].shape)}.')
    module.load_state_dict(weights, assign=True)
    return module.to(device).eval().requires_grad_(False)


def _read_torch(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch remarks on odd pickles before it refuses them
        return torch.load(path, map_location="cpu", weights_only=True)


def _numbers(state: State, pattern: str) -> set[int]:
    """What the names have in one place.

    Raises:
        KeyError: no name has that place.
    """
    found = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    if not found:
        raise KeyError(pattern.replace("\\", "").replace("(d+)", "0"))
    return found


def _listed(names: Any) -> str:
    shown = list(names)
    return (", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")) or "none"
