"""A RAE's parts from where they are: the encoder of transformers; statistics and decoder as upstream ships them.

model: a hub id, or a folder as transformers saves it
files: a folder laid out as upstream's ``checkpoints``, or a hub repository
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latpix.backbones.hub import hub_file, hub_folder, is_hub_id
from latpix.backbones.rae import Rae
from latpix.backbones.rae_decoder import EPS, HEADS, RaeDecoder
from latpix.backbones.registry import RELEASE, Encoder, encoder_of
from latpix.backbones.vae_files import read_config, read_weights
from latpix.errors import CheckpointError, MissingExtraError
from latpix.latents.normalize import Statistics, read_statistics
from latpix.latents.spaces import FromFile, LatentSpace
from latpix.libraries import quiet

_MODEL_FILES = ("config.json", "model*.safetensors*")
_KINDS = {"dinov2": ("dinov2_with_registers",), "siglip": ("siglip", "siglip_vision_model")}  # config's model_type
_TEXT = ("text_model.", "logit_scale", "logit_bias")  # of a whole SigLIP, beside its vision tower
_TOP = "checkpoints/"  # the folder in the repository, which a copy of it may be or have


def load_rae(
    space: LatentSpace,
    *,
    model: str | Path | None = None,
    files: str | Path | None = None,
    device: torch.device,
    dtype: torch.dtype,
) -> Rae:
    """A vision encoder as codec; its decoder is read when it is first asked to decode.

    Args:
        space: dinov2 or siglip.
        model: of the encoder; default the one that the space was made with.
        files: where upstream's files are; default the hub repository of the released decoders.
        device, dtype: of the encoder, and then of the decoder.

    Raises:
        CheckpointError: a folder lacks something, or the encoder makes other states than the space has.
        LatentError: the statistics are not the space's.
        DownloadError: the hub gave nothing.
        MissingExtraError: transformers is not installed.
    """
    row = encoder_of(space.name)
    encoder = _encoder(space, row, str(model or row.model), dtype)
    statistics = _statistics(space, row, files)
    return Rae(encoder.to(device), space, statistics=statistics, open_decoder=lambda: _decoder(space, row, files))


def _encoder(space: LatentSpace, row: Encoder, model: str, dtype: torch.dtype) -> nn.Module:
    """The vision tower, loaded strictly, checked against the space."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError.of("backbones", "transformers") from error
    by_hand = (
        f"By hand: `hf download {row.model} --local-dir DIR` where there is a connection, copy DIR here, and name it: "
        "--model DIR."
    )
    folder = Path(model)
    if not folder.is_dir():
        if not is_hub_id(model):
            raise CheckpointError(f'the encoder "{model}" is neither a folder nor a hub id. {by_hand}')
        folder = hub_folder(model, *_MODEL_FILES, instead=by_hand)
    kind = read_config(folder / "config.json").get("model_type")
    if kind not in _KINDS[space.name]:
        raise CheckpointError(
            f'"{model}" is of type "{kind}", but latents of space "{space.name}" are made by {row.class_name} '
            f"({' or '.join(_KINDS[space.name])}), such as {row.model}."
        )
    with quiet(transformers):
        try:
            encoder, report = getattr(transformers, row.class_name).from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f'"{model}" cannot be loaded as {row.class_name}: {error}') from error
    missing = sorted(report["missing_keys"])
    strange = sorted(key for key in report["unexpected_keys"] if not key.startswith(_TEXT))
    if missing or strange:
        raise CheckpointError(
            f'"{model}" is no whole {row.class_name}: missing {missing[:4] or "none"}, strange {strange[:4] or "none"}.'
        )
    config = encoder.config
    if config.hidden_size != space.channels:
        raise CheckpointError(
            f'"{model}" has states of {config.hidden_size} channels, but latents of space "{space.name}" have '
            f"{space.channels}, as {row.model} makes them."
        )
    if space.name == "siglip" and config.image_size // config.patch_size != space.fixed_size:
        raise CheckpointError(
            f'"{model}" sees {config.image_size // config.patch_size} cells a side, but latents of space '
            f'"{space.name}" have {space.fixed_size}, as {row.model} makes them.'
        )
    loaded: nn.Module = encoder
    return loaded


def _statistics(space: LatentSpace, row: Encoder, files: str | Path | None) -> Statistics | None:
    if not isinstance(space.normalization, FromFile):
        return None
    assert row.statistics is not None
    return read_statistics(_find(files, row.statistics), space)


def _decoder(space: LatentSpace, row: Encoder, files: str | Path | None) -> RaeDecoder:
    """Read where it is needed only: it is larger than the encoder, and encoding does without."""
    path, config = _find(files, row.file), {}
    if row.decoder_config is not None:
        config = read_config(_find(files, row.decoder_config))
    heads, eps = config.get("decoder_num_attention_heads", HEADS), config.get("layer_norm_eps", EPS)
    decoder = RaeDecoder.of(read_weights(path), heads=heads, eps=eps, name=str(path))
    sizes: dict[str, Any] = {
        "patch_size": decoder.patch,
        "decoder_num_hidden_layers": len(decoder.layers),
        "decoder_hidden_size": decoder.enter.out_features,
    }
    differing = {key: config[key] for key, size in sizes.items() if config.get(key, size) != size}
    if differing:
        raise CheckpointError(f'"{path}" is not what its configuration says: {json.dumps(differing)}; it has {sizes}.')
    if decoder.enter.in_features != space.channels:
        raise CheckpointError(
            f'"{path}" reads states of {decoder.enter.in_features} channels, but space "{space.name}" has '
            f"{space.channels}."
        )
    return decoder


def _find(files: str | Path | None, name: str) -> Path:
    """One of upstream's files: in a folder (which is ``checkpoints``, or has it), else from a hub repository."""
    folder = Path(files or RELEASE)
    for place in (folder / name, folder / name.removeprefix(_TOP)):
        if place.is_file():
            return place
    by_hand = (
        f"By hand: `hf download {RELEASE} {name} --local-dir DIR` where there is a connection, copy DIR here, and name "
        "it: --vae DIR."
    )
    if folder.is_dir():
        raise CheckpointError(f'the folder "{folder}" lacks {name.removeprefix(_TOP)}.\n{by_hand}')
    if not is_hub_id(str(folder)):
        raise CheckpointError(f'"{folder}" is neither a folder nor a hub repository.\n{by_hand}')
    return hub_file(str(folder), name, instead=by_hand)
