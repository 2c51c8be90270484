"""The table of backbones: what makes latents, of which space, with which classes, weights and defaults.

A backbone has an encoder (picture to latent, and its own decoder back) and, where diffusers runs it, a generator
(text to latent). Which checkpoint decodes its latents follows from its space: see ``rows_that_read`` of checkpoints.

Hub files: those with a path lie in the hub repository of the released decoders, which keeps a copy of each encoder.
Source: the models' published settings; the early stops that upstream recommends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType

from latpix.errors import UsageError

RELEASE = "nvidia/PiD"  # the hub repository that holds upstream's copies of the encoders


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What turns pictures into raw latents, and raw latents back into pictures at native size."""

    library: str  # of the class: diffusers or transformers
    class_name: str
    model: str  # hub id; the class's folder in it is `subfolder`
    subfolder: str | None = "vae"
    file: str  # the same weights as upstream ships them, in RELEASE; for a vision encoder, of its decoder
    statistics: str | None = None  # in RELEASE: what the latent is normalized with, where that is a file of its own
    decoder_config: str | None = None  # in RELEASE
    native_side: int | None = None  # pixels, where it knows no other size


@dataclass(frozen=True, kw_only=True)
class Generator:
    """What turns a text into a latent: a pipeline of diffusers and how it is called."""

    class_name: str
    model: str  # hub id
    steps: int
    guidance: float
    guidance_argument: str = "guidance_scale"  # the one that has an effect
    arguments: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))  # more of the call
    packed: bool = False  # the state is tokens, so that its size must be told
    stops: tuple[int, ...]  # steps after which stopping is worth a try
    stop: int | None  # the recommended one; None: run to the end
    billions: float  # of parameters, about, text encoders included; two bytes each


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row."""

    name: str
    space: str  # of its latents
    encoder: Encoder
    generator: Generator | None  # None: it generates outside diffusers, and latent files are the way in
    native_size: int = 512  # pixels a side, by default


_LONG: Mapping[str, object] = MappingProxyType({"max_sequence_length": 512})
_QWEN: Mapping[str, object] = MappingProxyType({**_LONG, "negative_prompt": " "})

_FLUX_VAE = Encoder(
    library="diffusers",
    class_name="AutoencoderKL",
    model="black-forest-labs/FLUX.1-dev",
    file="checkpoints/ae.safetensors",
)
_FLUX2_VAE = Encoder(
    library="diffusers",
    class_name="AutoencoderKLFlux2",
    model="black-forest-labs/FLUX.2-dev",
    file="checkpoints/flux2_ae.safetensors",
)

_FLUX = Backbone(
    name="flux",
    space="flux1",
    encoder=_FLUX_VAE,
    generator=Generator(
        class_name="FluxPipeline",
        model="black-forest-labs/FLUX.1-dev",
        steps=28,
        guidance=3.5,
        arguments=_LONG,
        packed=True,
        stops=(22, 24, 26),
        stop=24,
        billions=16.9,
    ),
)
_FLUX2 = Backbone(
    name="flux2",
    space="flux2",
    encoder=_FLUX2_VAE,
    generator=Generator(
        class_name="Flux2Pipeline",
        model="black-forest-labs/FLUX.2-dev",
        steps=50,
        guidance=4.0,
        arguments=_LONG,
        packed=True,
        stops=(44, 46, 48),
        stop=46,
        billions=56.3,
    ),
)
_SD3 = Backbone(
    name="sd3",
    space="sd3",
    encoder=replace(
        _FLUX_VAE,
        model="stabilityai/stable-diffusion-3-medium-diffusers",
        file="checkpoints/sd3_vae/vae/diffusion_pytorch_model.safetensors",
    ),
    generator=Generator(
        class_name="StableDiffusion3Pipeline",
        model="stabilityai/stable-diffusion-3-medium-diffusers",
        steps=28,
        guidance=4.0,
        stops=(22, 24, 26),
        stop=24,
        billions=7.8,
    ),
)
_SDXL = Backbone(
    name="sdxl",
    space="sdxl",
    encoder=replace(
        _FLUX_VAE, model="stabilityai/stable-diffusion-xl-base-1.0", file="checkpoints/sdxl_vae.safetensors"
    ),
    generator=Generator(
        class_name="StableDiffusionXLPipeline",
        model="stabilityai/stable-diffusion-xl-base-1.0",
        steps=30,
        guidance=7.5,
        stops=(24, 26, 28),
        stop=26,
        billions=3.5,
    ),
)
_QWENIMAGE = Backbone(
    name="qwenimage",
    space="qwen",
    encoder=Encoder(
        library="diffusers",
        class_name="AutoencoderKLQwenImage",
        model="Qwen/Qwen-Image",
        file="checkpoints/QwenImage_VAE_2d.pth",
    ),
    generator=Generator(
        class_name="QwenImagePipeline",
        model="Qwen/Qwen-Image",
        steps=50,
        guidance=4.0,
        guidance_argument="true_cfg_scale",  # it was not distilled: its own guidance_scale does nothing
        arguments=_QWEN,
        packed=True,
        stops=(44, 46, 48),
        stop=44,
        billions=28.9,
    ),
)
_ZIMAGE = Backbone(
    name="zimage",
    space="flux1",
    encoder=_FLUX_VAE,
    generator=Generator(
        class_name="ZImagePipeline",
        model="Tongyi-MAI/Z-Image",
        steps=50,
        guidance=5.0,
        arguments=_LONG,
        stops=(44, 46, 48),
        stop=46,
        billions=10.3,
    ),
)
_DINOV2 = Backbone(
    name="dinov2",
    space="dinov2",
    encoder=Encoder(
        library="transformers",
        class_name="Dinov2WithRegistersModel",
        model="facebook/dinov2-with-registers-base",
        subfolder=None,
        file="checkpoints/rae/decoders/dinov2/wReg_base/ViTXL_n08_i512/model.pt",
        statistics="checkpoints/rae/stats/dinov2/wReg_base/imagenet1k_512/stat.pt",
        native_side=512,
    ),
    generator=None,
)
_SIGLIP = Backbone(
    name="siglip",
    space="siglip",
    encoder=Encoder(
        library="transformers",
        class_name="SiglipVisionModel",
        model="google/siglip2-so400m-patch14-224",
        subfolder=None,
        file="checkpoints/scale_rae/decoder/siglip2_sop14_i224_web73M_ganw3_decXL.pt",
        decoder_config="checkpoints/scale_rae/decoder/XL_decoder_config.json",
        native_side=256,
    ),
    generator=None,
    native_size=256,
)


def _variant(row: Backbone, name: str, model: str, **generator: object) -> Backbone:
    """A backbone that shares another's latents and pipeline."""
    assert row.generator is not None
    return replace(row, name=name, generator=replace(row.generator, model=model, **generator))  # type: ignore[arg-type]


_KLEIN: dict[str, object] = {
    "class_name": "Flux2KleinPipeline", "steps": 4, "guidance": 1.0, "stops": (3,), "stop": None,
}  # fmt: skip
_ROWS = (
    _FLUX,
    _FLUX2,
    _variant(_FLUX2, "flux2-klein-4b", "black-forest-labs/FLUX.2-klein-4B", **_KLEIN, billions=8.0),
    _variant(_FLUX2, "flux2-klein-9b", "black-forest-labs/FLUX.2-klein-9B", **_KLEIN, billions=17.3),
    _SD3,
    _SDXL,
    _QWENIMAGE,
    _variant(_QWENIMAGE, "qwenimage-2512", "Qwen/Qwen-Image-2512"),
    _ZIMAGE,
    _variant(_ZIMAGE, "zimage-turbo", "Tongyi-MAI/Z-Image-Turbo", steps=9, guidance=0.0, stops=(7,), stop=None),
    _DINOV2,
    _SIGLIP,
)
BACKBONES = {row.name: row for row in _ROWS}


def find_backbone(name: str) -> Backbone:
    """The row of a name.

    Raises:
        UsageError: no backbone has that name; the message lists them.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    near = get_close_matches(name, BACKBONES, n=1)
    meant = f' Did you mean "{near[0]}"?' if near else ""
    raise UsageError(f'no backbone is called "{name}"; there are {", ".join(BACKBONES)}.{meant}')


def encoder_of(space: str) -> Encoder:
    """What encodes pictures to a space: the encoder of the first backbone that has it."""
    return next(row.encoder for row in BACKBONES.values() if row.space == space)
