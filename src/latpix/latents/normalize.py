"""Raw latents to latents and back, as each space's encoder and decoder do it.

    flux1, sd3, sdxl   latent = scale * (raw - shift)
    qwen               latent = (raw - mean[c]) / std[c]
    flux2, dinov2      latent = (raw - mean) / sqrt(var + eps), statistics from a file; flux2 patchifies 2x2 before
    siglip             latent = layer norm of each cell over its channels, without weight and bias

Computed in float32 at least and rounded once to the type that came in. Letters: b batch, c channels, h and w cells, g
cells a side of a space of fixed size.
"""

import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latpix.errors import LatentError
from latpix.files.inputs import check_input
from latpix.latents.packing import patchify, unpatchify
from latpix.latents.spaces import Affine, FromFile, LatentSpace, PerChannel, PerToken


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and variance that a space keeps in a file: one value per channel, or one per channel and cell."""

    mean: Float[Tensor, "c"] | Float[Tensor, "c g g"]
    var: Float[Tensor, "c"] | Float[Tensor, "c g g"]


def normalize(raw: Tensor, space: LatentSpace, statistics: Statistics | None = None) -> Float[Tensor, "b c h w"]:
    """What an encoder emits, as a latent.

    Args:
        raw: ``[b, raw channels, h, w]``; of flux2 the 32 channels at 1/8, of dinov2 and siglip the encoder's states.
        space: of which it is.
        statistics: where the space keeps them in a file (flux2, dinov2), see ``read_statistics``.

    Raises:
        LatentError: the statistics are missing, or the raw latent is not one of the space.
    """
    _check_shape(raw, space.raw_channels, space, "raw latents", multiple=space.patchify)
    wide = patchify(_wide(raw), space.patchify)  # [b, c, h, w]
    match space.normalization:
        case Affine(scale=scale, shift=shift):
            latent = scale * (wide - shift)
        case PerChannel(mean=mean, std=std):
            latent = (wide - _column(mean, wide)) / _column(std, wide)
        case FromFile() as rule:
            center, spread = _center_and_spread(statistics, rule, space, wide)
            latent = (wide - center) / spread
        case PerToken(eps=eps):
            latent = F.layer_norm(wide.movedim(1, -1), wide.shape[1:2], eps=eps).movedim(-1, 1)
    return latent.to(raw.dtype)


def denormalize(latent: Tensor, space: LatentSpace, statistics: Statistics | None = None) -> Float[Tensor, "b c h w"]:
    """The inverse of ``normalize``: what the space's own decoder reads. Siglip's reads the latent as it is.

    Raises:
        LatentError: the statistics are missing, or the latent is not one of the space.
    """
    _check_shape(latent, space.channels, space, "latents")
    wide = _wide(latent)
    match space.normalization:
        case Affine(scale=scale, shift=shift):
            raw = wide / scale + shift
        case PerChannel(mean=mean, std=std):
            raw = wide * _column(std, wide) + _column(mean, wide)
        case FromFile() as rule:
            center, spread = _center_and_spread(statistics, rule, space, wide)
            raw = wide * spread + center
        case PerToken():
            raw = wide
    return unpatchify(raw, space.patchify).to(latent.dtype)


def read_statistics(path: str | Path, space: LatentSpace) -> Statistics:
    """Read a space's statistics from the file that its row names; nothing in it is run.

    Raises:
        LatentError: the space needs no statistics, or the file does not hold them.
    """
    rule = space.normalization
    if not isinstance(rule, FromFile):
        raise LatentError(f'space "{space.name}" is normalized without a file of statistics; give none.')
    path = check_input(path, LatentError, rule.file)
    mean, var = _read_pair(path, rule, space)
    sizes = [space.channels] if space.fixed_size is None else [space.channels, space.fixed_size, space.fixed_size]
    if list(mean.shape) != sizes or list(var.shape) != sizes:
        raise LatentError(
            f'"{path}" holds {rule.mean_key} of shape {list(mean.shape)} and {rule.var_key} of shape '
            f'{list(var.shape)}, but space "{space.name}" has {sizes}. Expected {rule.file}.'
        )
    if not bool(torch.isfinite(mean).all() and torch.isfinite(var).all() and (var >= 0).all()):
        raise LatentError(f'the statistics in "{path}" are damaged: a mean or a variance is not a number, or negative.')
    return Statistics(mean.float(), var.float())


def _read_pair(path: Path, rule: FromFile, space: LatentSpace) -> tuple[Tensor, Tensor]:
    """The two tensors of the file, before anything is known of their shapes."""
    wanted = (rule.mean_key, rule.var_key)
    try:
        held = _read_torch(path) if path.suffix != ".safetensors" else _read_safetensors(path, wanted)
    except (SafetensorError, pickle.UnpicklingError, LookupError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise LatentError(
            f'"{path}" is damaged, of another format, or holds Python objects (of which nothing was run). '
            f"Expected {rule.file}."
        ) from error
    found = [held.get(key) for key in wanted] if isinstance(held, dict) else []
    if len(found) == 2 and isinstance(found[0], Tensor) and isinstance(found[1], Tensor):
        return found[0], found[1]
    raise LatentError(
        f'"{path}" lacks the tensors {wanted[0]} and {wanted[1]}, the statistics of space "{space.name}". '
        f"Expected {rule.file}."
    )


def _read_safetensors(path: Path, wanted: Sequence[str]) -> dict[str, Tensor]:
    """Of a whole VAE, only what is wanted."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in wanted if key in file.keys()}  # noqa: SIM118  it is no dict


def _read_torch(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch remarks on odd pickles before it refuses them
        return torch.load(path, map_location="cpu", weights_only=True)


def _center_and_spread(
    statistics: Statistics | None, rule: FromFile, space: LatentSpace, like: Float[Tensor, "b c h w"]
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, shaped to meet ``[b, c, h, w]``."""
    if statistics is None:
        raise LatentError(
            f'raw latents of space "{space.name}" need statistics from {rule.file}: give its path to '
            "latpix.latents.normalize.read_statistics. Normalized latents need none."
        )
    mean, var = (t if t.ndim == 3 else t[:, None, None] for t in (statistics.mean.to(like), statistics.var.to(like)))
    return mean, torch.sqrt(var + rule.eps)


def _check_shape(tensor: Tensor, channels: int, space: LatentSpace, what: str, *, multiple: int = 1) -> None:
    wrong = tensor.ndim != 4 or tensor.shape[1] != channels
    if space.fixed_size is not None:
        sides = f"{space.fixed_size}, {space.fixed_size}"
        wrong = wrong or tuple(tensor.shape[2:]) != (space.fixed_size, space.fixed_size)
    else:
        sides = "h, w" if multiple == 1 else f"{multiple}h, {multiple}w"
        wrong = wrong or any(side % multiple for side in tensor.shape[2:])
    if wrong:
        raise LatentError(
            f'{what} of space "{space.name}" are [b, {channels}, {sides}], but this tensor is {list(tensor.shape)}.'
        )


def _wide(tensor: Tensor) -> Float[Tensor, "b c h w"]:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _column(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "c 1 1"]:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
