"""One step of a teacher: noise the latents, mix pictures with noise, ask the network, weigh the losses.

    total = flow + rgb_weight * rgb

``flow`` is the velocity's mean squared error (flow_matching.py), ``rgb`` the RGB head's (auxiliary_rgb.py).
Letters: b batch, c latent channels, h and w latent cells, H and W pixels, l caption tokens, e their width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from latpix.sampling.paths import Prediction
from latpix.sampling.schedules import DynamicShift
from latpix.training.auxiliary_rgb import NativePixels, auxiliary_rgb_loss
from latpix.training.draws import Draws
from latpix.training.dropout import drop_captions, drop_latents
from latpix.training.flow_matching import flow_matching
from latpix.training.given import Caption, Given, Latent, Network, PerSample, Pixels, Step
from latpix.training.latent_noising import LatentNoising, noise_latents
from latpix.training.times import draw_times, shift_at

SHIFT = DynamicShift(base=6.0, reference=2048)
NOISING = LatentNoising()


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """Numbers of a teacher's step; the defaults are those of the v1.5 teachers."""

    shift: float | DynamicShift = SHIFT
    time_mean: float = 0.0
    time_std: float = 1.0
    noising: LatentNoising = NOISING
    drop_caption: float = 0.1
    drop_latent: float = 0.1
    rgb_weight: float = 0.8
    prediction: Prediction = "velocity"


def condition_batch(
    latent: Latent,
    caption: Caption | None,
    empty_caption: Float[Tensor, "_ l e"] | None,
    draws: Draws,
    settings: TeacherSettings,
    sources: Sequence[str] | None = None,
) -> tuple[Given, PerSample]:
    """Noise latents and drop some: what the network is told, and 1 for each latent that was kept."""
    latent, latent_sigma = noise_latents(latent, draws, settings.noising, sources)
    latent, kept = drop_latents(latent, draws, settings.drop_latent)
    if caption is not None and empty_caption is not None:
        caption = drop_captions(caption, empty_caption, draws, settings.drop_caption)
    return Given(latent, latent_sigma, caption), kept


def teacher_step(
    network: Network,
    pixels: Pixels,
    latent: Latent,
    draws: Draws,
    settings: TeacherSettings,
    *,
    caption: Caption | None = None,
    empty_caption: Float[Tensor, "_ l e"] | None = None,
    native: NativePixels | None = None,
    predict_rgb: Callable[[Latent], NativePixels] | None = None,
    sources: Sequence[str] | None = None,
) -> Step:
    """The losses of one batch.

    Args:
        network: puts out what ``settings.prediction`` says.
        pixels: true pictures, float32 in [-1, 1].
        latent: theirs, clean, normalized values.
        draws: in this order those of ``noise_latents``, ``drop_latent``, ``drop_caption``, ``time``, ``noise``.
        caption: states of the caption encoder; None for a network without captions.
        empty_caption: those of the empty text; without it no caption is dropped.
        native: the pictures at native size in [-1, 1], which the RGB head should find.
        predict_rgb: the RGB head. It is called right after ``network`` and with the same latent, so a network that
            already has its picture may hand that out. None, or no ``native``: no RGB loss.
        sources: where each sample came from, for ``settings.noising.by_source``.

    Returns:
        Losses ``flow`` and, with an RGB head, ``rgb``; seen ``x_t``, ``t``, ``latent`` and ``latent_sigma``.
    """
    count, _, height, width = pixels.shape
    given, kept = condition_batch(latent, caption, empty_caption, draws, settings, sources)
    shift = shift_at(settings.shift, height, width)
    t = draw_times(draws, count, shift, mean=settings.time_mean, std=settings.time_std)
    noise = draws.normal("noise", tuple(pixels.shape))
    flow, x_t = flow_matching(network, pixels, noise, t, given, settings.prediction)
    losses, total = {"flow": flow}, flow
    if predict_rgb is not None and native is not None:
        losses["rgb"] = auxiliary_rgb_loss(predict_rgb(given.latent), native, given.latent_sigma, kept)
        total = total + settings.rgb_weight * losses["rgb"]
    seen = {"x_t": x_t, "t": t, "latent": given.latent, "latent_sigma": given.latent_sigma}
    return Step(total, losses, {name: tensor.detach() for name, tensor in seen.items()})
