"""For people who hold a pipeline of diffusers: a VAE that paints, and a decode for raw pipeline output.

    pipe.vae = PidVAE.load("flux2-tiny", vae=pipe.vae)       pipe(...) now returns pictures `scale` times larger

    raw latent --the VAE's own statistics--> latent --Decoder--> pixels

Letters: b batch, c channels, h and w latent cells, H and W output pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.backbones.states import PIPELINES, state_to_latent
from latpix.backbones.vae import Vae, normalize_with
from latpix.captions.provide import as_states
from latpix.checkpoints.registry import advised
from latpix.decoder import Decoder
from latpix.devices import pick_dtype
from latpix.errors import CheckpointError, LatentError
from latpix.files.latent_files import Latent
from latpix.latents.spaces import LATENT_SPACES, find_space

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DecoderOutput

_HOOKS = ("_hf_", "_old_forward", "_diffusers_hook")  # a module's own; another's would be removed twice

Caption = str | Sequence[str] | Float[Tensor, "#b l k"] | None


class PidVAE(nn.Module):
    """A VAE whose ``decode`` is a Decoder's; everything else is the wrapped VAE's own.

    The decoder follows the VAE from device to device (``pipe.to``, ``enable_model_cpu_offload``) and keeps its own
    numeric types. Put the wrapped VAE back (``pipe.vae = pipe.vae.wrapped``) before saving a pipeline.

    Attributes:
        wrapped: the pipeline's own VAE.
        decoder: what paints.
        caption: what the pictures show: a text, one for each, or states of the caption encoder; None is the null
            caption. Checkpoints without a caption stream ignore it.
        latent_sigma: how noisy the latents are that the pipeline hands over, in [0, 1].
        seed: picture k of a batch uses ``seed + k``; the pipeline's generator is left alone.
        options: further arguments of ``Decoder.decode``, such as ``steps`` or ``memory_limit``.
    """

    def __init__(
        self, vae: nn.Module, decoder: Decoder, *, caption: Caption, latent_sigma: float, seed: int, **options: Any
    ) -> None:
        super().__init__()
        self.wrapped = vae
        # Not a child module: a pipeline's dtype is not for it to take.
        object.__setattr__(self, "decoder", decoder)
        self.caption = caption
        self.latent_sigma = latent_sigma
        self.seed = seed
        self.options = options
        _take_hook(vae, self)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        vae: nn.Module,
        caption: Caption = None,
        latent_sigma: float = 0.0,
        seed: int = 0,
        like: str | None = None,
        dtype: str | torch.dtype = "auto",
        **options: Any,
    ) -> Self:
        """Load a checkpoint beside a pipeline's VAE, on its device.

        Args:
            checkpoint: a name of the registry, or a file.
            vae: the pipeline's own, or a PidVAE, which is replaced.
            caption, latent_sigma, seed: may be set between calls, too.
            like: the registry row that a bare file follows.
            dtype: what the decoder computes in.
            options: further arguments of ``Decoder.decode``.

        Raises:
            CheckpointError: no such checkpoint, or one that reads latents of another space than the VAE's.
            CaptionError, DownloadError, MissingExtraError: the caption cannot be embedded.
        """
        module = vae.wrapped if isinstance(vae, PidVAE) else vae
        runs_on = getattr(getattr(module, "_hf_hook", None), "execution_device", None) or _device(module)
        picked = pick_dtype(dtype, torch.device(runs_on))
        decoder = Decoder.load(checkpoint, device=_device(module), dtype=picked, like=like)
        _check_pair(module, decoder)
        if decoder.checkpoint.network.caption_width:  # into the cache now: after a run of the pipeline is late to fail
            as_states(["" if caption is None else caption], model=options.get("caption_model"), device=decoder.device)
        return cls(module, decoder, caption=caption, latent_sigma=latent_sigma, seed=seed, **options)

    @torch.no_grad()
    def decode(
        self, z: Tensor, return_dict: bool = True, **_ignored: object
    ) -> "DecoderOutput | tuple[Float[Tensor, 'b 3 *1 H W']]":
        """Paint raw latents ``[b, c, h, w]``, or ``[b, c, 1, h, w]`` as video VAEs have them.

        Returns:
            Pixels in [-1, 1], float32, with a frame axis if the latents have one; in a tuple, or in diffusers'
            ``DecoderOutput`` with ``return_dict``.

        Raises:
            LatentError: not a raw latent of the VAE.
        """
        self._come()
        if z.ndim == 5 and z.shape[2] != 1:
            raise LatentError(f"the latent has {z.shape[2]} frames; still pictures have one, [b, c, 1, h, w].")
        raw = (z[:, :, 0] if z.ndim == 5 else z).to(_device(self.wrapped))
        latent = normalize_with(raw.float(), self.wrapped, self.decoder.space)
        pixels = self.decoder.decode(
            latent,
            latent_sigma=self.latent_sigma,
            caption="" if self.caption is None else self.caption,
            seed=self.seed,
            **self.options,
        )
        pixels = pixels.unsqueeze(2) if z.ndim == 5 else pixels
        if not return_dict:
            return (pixels,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=pixels)

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped VAE's own."""
        self._come()
        vae: Any = self.wrapped
        return vae.encode(*args, **kwargs)

    def _come(self) -> None:
        """To the device, where a pipeline offloads its parts."""
        if hasattr(self, "_hf_hook"):
            self._hf_hook.pre_forward(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the wrapped VAE; the decoder moves along, and is not cast."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = _device(self.wrapped)
        if device != self.decoder.device:
            self.decoder.to(device)
        return self

    def __getattr__(self, name: str) -> Any:
        """What is not the painter's is the wrapped VAE's: ``config``, ``bn``, ``dtype``, ``encode``, ..."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "wrapped" or name.startswith(_HOOKS):
                raise
            return getattr(self.wrapped, name)


def decode_latents(
    tensor: Tensor,
    *,
    space: str,
    packed: bool = False,
    height: int | None = None,
    width: int | None = None,
    checkpoint: str | Path | Decoder,
    vae: nn.Module | None = None,
    latent_sigma: float = 0.0,
    caption: Caption = None,
    seed: int = 0,
    **options: Any,
) -> Float[Tensor, "b 3 H W"]:
    """Decode what a pipeline of diffusers returned with ``output_type="latent"``.

    Args:
        tensor: tokens ``[b, n, k]`` if ``packed`` (FLUX, FLUX.2, Qwen-Image), else ``[b, c, h, w]``; klein's raw latent
            ``[b, 32, h, w]`` with its ``vae``; a frame axis of one is dropped.
        space: the latent space, e.g. "flux1".
        packed: whether it is tokens.
        height, width: the size that the pipeline was called with, in pixels; needed for tokens.
        checkpoint: a name of the registry, a file, or a Decoder, which is worth keeping for several calls.
        vae: the pipeline's, for raw latents.
        latent_sigma, caption, seed, options: of ``Decoder.decode``.

    Returns:
        Pixels in [-1, 1], float32.

    Raises:
        LatentError: the tensor is not what ``space`` and ``packed`` say.
        UsageError: it is raw, and there is no ``vae``.
    """
    row = find_space(space)
    if packed != (tensor.ndim == 3):
        form = "[b, n, k]" if packed else f"[b, {row.channels}, h, w]"
        raise LatentError(f"the tensor has shape {list(tensor.shape)}, but packed={packed} means {form}.")
    if packed and (height is None or width is None):
        raise LatentError("tokens do not say their picture's size: give height=... and width=..., as the pipeline had.")
    backbone = next((name for name, user in PIPELINES.items() if user.space == space), None)
    if backbone is None:  # vision encoders: nothing packs or shifts them
        latent = Latent(tensor=tensor.float(), space=space)
    else:
        latent = state_to_latent(tensor, backbone, height=height, width=width, vae=vae)
    decoder = checkpoint if isinstance(checkpoint, Decoder) else Decoder.load(checkpoint)
    return decoder.decode(latent, latent_sigma=latent_sigma, caption=caption, seed=seed, **options)


def _take_hook(vae: nn.Module, painter: nn.Module) -> None:
    """A VAE that accelerate brings to the device when it is called: the painter comes instead."""
    hook = getattr(vae, "_hf_hook", None)
    if hook is None:
        return
    from accelerate.hooks import add_hook_to_module, remove_hook_from_module

    remove_hook_from_module(vae, recurse=True)
    add_hook_to_module(painter, hook)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _check_pair(vae: nn.Module, decoder: Decoder) -> None:
    """The VAE's latents are of the space that the checkpoint reads, as far as its class and configuration tell.

    Raises:
        CheckpointError: they are not; the message lists the checkpoints that read them.
    """
    row = decoder.checkpoint
    try:
        Vae.of(vae, row.space)
    except CheckpointError as error:
        fitting = [one.name for space in LATENT_SPACES if _is_of(vae, space) for one in advised(space)]
        advice = f"Checkpoints that fit it: {', '.join(fitting)}." if fitting else "No checkpoint fits it."
        raise CheckpointError(f'checkpoint "{row.name}" does not fit this pipeline\'s VAE: {error} {advice}') from error


def _is_of(vae: nn.Module, space: str) -> bool:
    try:
        Vae.of(vae, space)
    except CheckpointError:
        return False
    return True
