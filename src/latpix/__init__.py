"""Pixel diffusion decoder: turns the latents of image generators into pictures several times larger.

    import latpix

    pixels = latpix.Decoder.load("flux2-tiny").decode(latpix.read_latent("cat.safetensors"))
    latpix.save_picture(pixels, "cat.png")

Each name is imported when it is first used (PEP 562), so importing latpix is instant and does not bring torch in.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latpix.backbones.codec import Codec
    from latpix.backbones.states import StopAt, run_until
    from latpix.decoder import Decoder
    from latpix.errors import LatpixError
    from latpix.files.latent_files import Latent, read_latent, save_latent
    from latpix.files.picture_files import read_picture, save_picture
    from latpix.pid_vae import PidVAE, decode_latents

__version__ = "0.1.0"

__all__ = [
    "Codec",
    "Decoder",
    "Latent",
    "LatpixError",
    "PidVAE",
    "StopAt",
    "__version__",
    "decode_latents",
    "read_latent",
    "read_picture",
    "run_until",
    "save_latent",
    "save_picture",
]

_HOMES = {
    "Codec": "latpix.backbones.codec",
    "Decoder": "latpix.decoder",
    "Latent": "latpix.files.latent_files",
    "LatpixError": "latpix.errors",
    "PidVAE": "latpix.pid_vae",
    "StopAt": "latpix.backbones.states",
    "decode_latents": "latpix.pid_vae",
    "read_latent": "latpix.files.latent_files",
    "read_picture": "latpix.files.picture_files",
    "run_until": "latpix.backbones.states",
    "save_latent": "latpix.files.latent_files",
    "save_picture": "latpix.files.picture_files",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'latpix' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
