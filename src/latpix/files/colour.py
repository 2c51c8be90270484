"""From the colour modes that files have to red, green and blue.

| in the file                   | becomes                                                                            |
| ----------------------------- | ---------------------------------------------------------------------------------- |
| RGB, 8 bits                   | itself; an RGB ICC profile stays the picture's profile, the values are not touched |
| RGB, 16 bits                  | its high bytes                                                                     |
| grey, 8 or 16 bits, bitmap    | three equal channels, 16 bits at full precision                                    |
| palette, YCbCr                | RGB                                                                                |
| alpha or a transparent colour | laid over white                                                                    |
| CMYK                          | sRGB through its ICC profile; without one, by the formula R = (1 - C)(1 - K)       |
| grey with a grey profile      | sRGB through that profile                                                          |
| 32-bit integer or float, Lab  | refused: what its values mean is not in the file                                   |
"""

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms
from torch import Tensor

from latpix.errors import PictureError

_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L")


def kept_profile(image: Image.Image) -> bytes | None:
    """The ICC profile that describes the pixels after they became RGB, if the file has one (its header suffices)."""
    profile = image.info.get("icc_profile")
    return profile if profile and _colours_of(profile) == b"RGB " and image.mode != "CMYK" else None


def unpack(image: Image.Image, name: str) -> Float[Tensor, "1 3 H W"]:
    """The pixels of an opened picture, in [-1, 1].

    Raises:
        PictureError: the colour mode has no known meaning.
    """
    if image.mode not in _MODES:
        raise PictureError(
            f"{name} has values of mode {image.mode}, which does not say what white is; "
            "save it as 8- or 16-bit RGB or grey."
        )
    if image.mode.startswith("I;16"):
        grey = torch.from_numpy(np.array(image, dtype=np.float32)) * (2 / 65535) - 1  # [H, W]
        return grey.expand(1, 3, -1, -1).contiguous()  # [1, 3, H, W]
    levels = torch.from_numpy(np.array(_as_rgb(image)))  # [H, W, 3]
    return levels.permute(2, 0, 1)[None].float() / 127.5 - 1  # [1, 3, H, W]


def pack(pixels: Float[Tensor, "3 H W"]) -> Image.Image:
    """8-bit levels of pixels in [-1, 1]: clamped, rounded to the nearest."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return _through_profile(image) or image.convert("RGB")


def _through_profile(image: Image.Image) -> Image.Image | None:
    """The picture in sRGB, where its profile says what its inks or its greys look like; else None."""
    profile = image.info.get("icc_profile")
    if not profile or {"CMYK": b"CMYK", "L": b"GRAY"}.get(image.mode) != _colours_of(profile):
        return None
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None  # a broken profile is as good as none


def _colours_of(profile: bytes) -> bytes:
    """The colour space that an ICC profile describes: b"RGB ", b"GRAY" or b"CMYK" (ICC.1:2022, table 17, byte 16)."""
    return profile[16:20]
