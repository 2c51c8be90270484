"""Which size a backbone must generate for an output of a given size, and whether it and the checkpoint can do it.

native side = output side / scale         backbones make multiples of 16 pixels
"""

from latpix.backbones.registry import Backbone
from latpix.checkpoints.registry import FAR, Checkpoint, advised
from latpix.errors import OptionError
from latpix.output_sizes import SCALES

MULTIPLE = 16  # pixels: two cells of 8, or one of 16
SCALE = 4  # of an output that no checkpoint was named for
LEAST = 64  # pixels a side of the smallest native picture that is worth a backbone's run


def native_size(
    backbone: Backbone,
    checkpoint: Checkpoint | None,
    size: tuple[int, int] | None = None,
    scale: float | None = None,
) -> tuple[int, int]:
    """Height and width in pixels that the backbone is to generate.

    Args:
        backbone: that generates.
        checkpoint: that decodes; None where latents are only saved.
        size: (height, width) of the output; default the backbone's own native size.
        scale: output side / native side, 0.5 to 16; default the checkpoint's.

    Raises:
        OptionError: no native size gives that output, or the checkpoint was not trained for it; the message says which
            sizes or checkpoints would do.
    """
    factor = (checkpoint.scale if checkpoint else SCALE) if scale is None else scale
    if not SCALES[0] <= factor <= SCALES[1]:
        raise OptionError(f"scale is {factor}; expected {SCALES[0]} to {SCALES[1]}.")
    if size is None:
        native = (backbone.native_size, backbone.native_size)
    else:
        sides = [side / factor for side in size]
        if any(side < MULTIPLE or side % MULTIPLE for side in sides):
            raise OptionError(_suggest(size, factor))
        native = (int(sides[0]), int(sides[1]))
    side = backbone.encoder.native_side
    if side is not None and native != (side, side):
        raise OptionError(
            f'"{backbone.name}" knows pictures of {side}x{side} pixels only: at scale {factor:g} ask for '
            f"{side * factor:g}x{side * factor:g}, or leave --size out."
        )
    if min(native) < LEAST:
        raise OptionError(
            f"a native picture of {native[1]}x{native[0]} pixels is too small for a backbone: ask for at least "
            f"{LEAST * factor:g}x{LEAST * factor:g} at scale {factor:g}."
        )
    if checkpoint is not None:
        _check_trained(checkpoint, native, factor)
    return native


def _suggest(size: tuple[int, int], factor: float) -> str:
    step = MULTIPLE * factor
    near = [max(1, round(side / step)) * step for side in size]
    height, width = size
    return (
        f"the output size {width}x{height} would need a native picture of {width / factor:g}x{height / factor:g} "
        f"pixels at scale {factor:g}, but backbones make multiples of {MULTIPLE}. "
        f"The nearest that works is {near[1]:g}x{near[0]:g}."
    )


def _check_trained(checkpoint: Checkpoint, native: tuple[int, int], factor: float) -> None:
    """The checkpoint saw pictures of about that size; above, it paints blocks. Smaller ones are only a little soft."""
    side = (native[0] * native[1]) ** 0.5
    _, high = checkpoint.native_sizes
    if side <= FAR * high:
        return
    largest = f"{high * factor:g}x{high * factor:g}"
    fitting = [row.name for row in advised(checkpoint.space) if side <= FAR * row.native_sizes[1]]
    others = f", or take a checkpoint made for this size: {', '.join(fitting)}" if fitting else ""
    raise OptionError(
        f'a native picture of {native[1]}x{native[0]} pixels is outside what "{checkpoint.name}" was trained on '
        f"({checkpoint.native_sizes[0]} to {high} a side), and it would paint blocks. Ask for about {largest}{others}."
    )
