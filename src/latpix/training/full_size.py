"""What the recipes of the official networks share: the weights they begin with, the sample they save, their export.

Letters: H and W pixels.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.checkpoints.detect import RGB_HEAD
from latpix.checkpoints.load import load, save
from latpix.checkpoints.registry import Checkpoint
from latpix.errors import UsageError
from latpix.network.model import Denoiser
from latpix.sampling.guidance import guide
from latpix.sampling.noise import noise_field
from latpix.sampling.samplers import Denoise, sample_multistep, sample_renoise
from latpix.sampling.schedules import solver_times
from latpix.training.given import Given
from latpix.training.painter import denoiser_weights
from latpix.training.shard_pairs import ShardBatch

SHOWN = 3  # names in a message


def begin(network: Denoiser, checkpoint: str, *, fresh: tuple[str, ...] = ()) -> None:
    """Take over a checkpoint's weights, but for an RGB head that the network does not have.

    Args:
        network: whose weights they become.
        checkpoint: a name of the registry, or a file.
        fresh: how the names of those weights begin that may be missing there, and then stay as they are.

    Raises:
        UsageError: it is another network's.
        CheckpointError: as of ``load``.
    """
    ours = {name: weight.shape for name, weight in network.named_parameters()}
    state = load(checkpoint).network.state_dict()
    state = {name: weight for name, weight in state.items() if name in ours or not name.startswith(RGB_HEAD)}
    lacking = [name for name in ours if name not in state and not name.startswith(fresh)]
    strange = [name for name, weight in state.items() if ours.get(name) != weight.shape]
    if lacking or strange:
        wrong = [
            f"{len(names)} {what} ({', '.join(names[:SHOWN])})"
            for names, what in ((lacking, "missing"), (strange, "strange or of another shape"))
            if names
        ]
        raise UsageError(
            f'"{checkpoint}" is not what this recipe can begin with: of its weights are {"; ".join(wrong)}.'
        )
    network.load_state_dict(state, strict=False)


@torch.no_grad()
def picture_of(
    painter: nn.Module, row: Checkpoint, example: ShardBatch, null_caption: Float[Tensor, "1 l e"]
) -> Float[Tensor, "3 H W"]:
    """What the network makes of an example as ``row`` is sampled, and the original on its right."""
    sampling, pixels = row.sampling, example.pixels
    given = Given(example.latent, torch.zeros(len(pixels), device=pixels.device), example.caption)
    null = given.captioned(null_caption)

    def bound(told: Given) -> Denoise:
        return lambda x_t, t: told.ask(painter, x_t, t)

    count, channels, height, width = pixels.shape
    noise = noise_field(range(count), channels, height, width, device=pixels.device)
    if sampling.times is not None:
        painted = sample_renoise(bound(given), noise, torch.tensor(sampling.times))
    else:
        shift = sampling.dynamic_shift.at(height, width) if sampling.dynamic_shift else sampling.shift
        guided = guide(bound(given), bound(null), sampling.guidance_scale)
        painted = sample_multistep(guided, noise, solver_times(sampling.steps, shift))
    return torch.cat([painted, pixels], dim=3)[0].clamp(-1, 1)


def export(
    average: Mapping[str, Tensor], row: Checkpoint, folder: Path, made_by: str, dtype: torch.dtype = torch.float32
) -> Path:
    """Write averaged weights as a checkpoint of ``row``."""
    path = folder / f"{row.name}.safetensors"
    save(denoiser_weights(dict(average)), row, path, dtype=dtype, source=made_by)
    return path
