"""Picture to latent and back, for every latent space: which codec it takes, and where its weights are.

| space                  | ``vae``                           | ``model``       | neither                     |
| ---------------------- | --------------------------------- | --------------- | --------------------------- |
| flux2                  | "flux2-lite", or a VAE            | a pipeline      | flux2-lite, which is here   |
| flux1, sd3, sdxl, qwen | a VAE                             | a pipeline      | the hub's pipeline          |
| dinov2, siglip         | upstream's statistics and decoder | the encoder     | the hub's                   |

A VAE is a file (upstream's, or diffusers'), a folder of diffusers (a VAE's or a pipeline's), or a hub id.
"""

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latpix.backbones.codec import Codec
from latpix.backbones.hub import hub_file, is_hub_id
from latpix.backbones.lite_file import NAME
from latpix.backbones.rae_files import load_rae
from latpix.backbones.registry import RELEASE, Encoder, encoder_of
from latpix.backbones.vae import Vae
from latpix.backbones.vae_files import SUFFIXES, WEIGHTS, load_vae_file, load_vae_folder, read_config
from latpix.devices import pick_device, pick_dtype
from latpix.errors import CheckpointError
from latpix.latents.spaces import LatentSpace, find_space


@runtime_checkable
class PictureCodec(Protocol):
    """What turns pictures into latents of one space, and latents into pictures of native size; no gradients."""

    space: str  # the latent space's name
    downsample: int  # pixels per side of a cell

    @property
    def native_side(self) -> int | None:
        """Pixels a side of all its pictures, where it knows no other size."""

    @property
    def sha256(self) -> str:
        """Of what encodes."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures [b,3,H,W] in [-1, 1] to normalised latents [b,c,h,w], float32."""

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latents [b,c,h,w] to pictures [b,3,H,W] in [-1, 1], float32."""


def load_codec(
    space: str,
    *,
    vae: str | Path | None = None,
    model: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    memory_limit: str | int | None = None,
) -> PictureCodec:
    """What encodes pictures to a latent space, as in the module's table.

    Args:
        space: a name of the table of latent spaces.
        vae: weights of the VAE; of dinov2 and siglip a folder with upstream's files.
        model: the pipeline whose VAE it is, where no VAE is given; of dinov2 and siglip the vision encoder.
        device: "auto" (an accelerator where there is one), or a torch device.
        dtype: "auto" (bfloat16 on accelerators and on CPUs with bf16 units, else float32), or its name.
        memory_limit: such as "6GiB"; a VAE cuts larger pictures into tiles.

    Raises:
        LatentError: no such space.
        CheckpointError: no such file or folder, or one of something else.
        DownloadError: the hub did not give it; the message says what to do by hand.
        MissingExtraError: diffusers or transformers is needed and not installed.
        OptionError: no such device or dtype.
    """
    row, encoder = find_space(space), encoder_of(find_space(space).name)
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    if encoder.library == "transformers":
        return load_rae(row, model=model, files=vae, device=where, dtype=kind)
    source = vae if vae is not None else model
    lite = source == NAME or (source is not None and _is_lite(Path(source)))
    if lite and space != Codec.space:
        raise CheckpointError(f'"{source}" encodes to space "{Codec.space}", not to "{space}".')
    if lite or (source is None and space == Codec.space):
        return Codec.load(source or NAME, device=where, dtype=kind)
    # Some VAEs overflow in float16.
    kind = torch.float32 if kind == torch.float16 else kind
    return _load_vae(row, encoder, str(source or encoder.model), where, kind, memory_limit)


def _load_vae(
    space: LatentSpace,
    encoder: Encoder,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    memory_limit: str | int | None,
) -> Vae:
    """From a file, a folder, or the hub."""
    path = Path(source)
    if path.is_dir():
        module = load_vae_folder(path, space.name, device=device, dtype=dtype)
    elif path.suffix in SUFFIXES:
        module = load_vae_file(path, space.name, device=device, dtype=dtype)
    elif path.exists() or not is_hub_id(source):
        known = f'"{NAME}", ' if space.name == Codec.space else ""
        raise CheckpointError(
            f'"{source}" is no VAE: expected {known}a file ({", ".join(SUFFIXES)}), a folder of diffusers, or a hub id '
            f"such as {encoder.model}."
        )
    else:
        module = load_vae_folder(_from_hub(source, encoder), space.name, device=device, dtype=dtype)
    return Vae.of(module, space.name, memory_limit=memory_limit)


def _from_hub(repository: str, encoder: Encoder) -> Path:
    """The folder of a VAE, by itself or in a pipeline's repository; its class is checked before its weights come."""
    by_hand = (
        f'By hand: `hf download {encoder.model} --include "{encoder.subfolder}/*" --local-dir DIR` where there is a '
        f"connection, copy DIR here, and name it: --vae DIR. Or take {encoder.file} of {RELEASE}: --vae FILE."
    )
    config = hub_file(repository, f"{encoder.subfolder}/config.json", "config.json", instead=by_hand)
    found = read_config(config).get("_class_name")
    if found != encoder.class_name:
        raise CheckpointError(
            f'"{repository}" holds {found}; expected {encoder.class_name}, as {encoder.model} has it.'
        )
    inside = f"{encoder.subfolder}/" if config.parent.name == encoder.subfolder else ""
    return hub_file(repository, inside + WEIGHTS[0], instead=by_hand).parent


def _is_lite(path: Path) -> bool:
    """Whether a file is one of flux2-lite's training."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
    except (SafetensorError, OSError, ValueError):
        return False  # whoever reads it whole says what is wrong
    return isinstance(config, dict) and config.get("codec") == NAME
