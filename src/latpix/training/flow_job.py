"""The job of the official networks that learn by flow matching: text-to-image networks and teachers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.checkpoints.registry import Checkpoint
from latpix.network.model import Denoiser
from latpix.training.full_size import export, picture_of
from latpix.training.given import Caption, Latent, PerSample, Pixels, Step
from latpix.training.job import Part, SampleDraws
from latpix.training.painter import Painter
from latpix.training.shard_pairs import FromShards, ShardBatch, ShardConfig, ShardPairs
from latpix.training.teacher_step import TeacherSettings, teacher_step


@dataclass(frozen=True, kw_only=True)
class FlowConfig(ShardConfig):
    """Settings of such a run."""

    learning_rate: float
    start: str  # checkpoint to begin with, a name or a file
    warmup_updates: int = 2000
    weight_decay: float = 0.0
    clip: float = 0.1
    drop_caption: float = 0.1


def part_of(painter: Painter, settings: FlowConfig) -> Part:
    """The network that learns, as the settings say."""
    return Part(
        network=painter,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_updates=settings.warmup_updates,
        clip=settings.clip,
    )


class FlowJob(FromShards):
    """See training/job.py.

    Args:
        settings: of the run.
        row: what is made.
        network: its weights, marked where they learn.
        data: what it learns from.
        step_settings: numbers of a step.
        averaged: the name of its only part.
        made_by: the recipe's name.
    """

    def __init__(
        self,
        settings: FlowConfig,
        row: Checkpoint,
        network: Denoiser,
        data: ShardPairs,
        step_settings: TeacherSettings,
        *,
        averaged: str,
        made_by: str,
    ) -> None:
        self.name, self.averaged, self.made_by = row.name, averaged, made_by
        self.row, self.data, self.step_settings = row, data, step_settings
        self.painter = Painter(network, row.sampling.prediction, settings.precision)
        self.parts: Mapping[str, Part] = {averaged: part_of(self.painter, settings)}
        self.frozen: Mapping[str, nn.Module] = {}
        # Two captions that say nothing: one that training shows, one that guidance pushes away from.
        self.empty, self.null = data.states([""]), data.states([NEGATIVE_PROMPT])

    def turn(self, step: int) -> tuple[str, ...]:
        return (self.averaged,)

    def losses(self, batch: ShardBatch, step: int, draws: SampleDraws) -> Step:
        has_rgb = self.row.network.rgb_head is not None
        seen: list[Tensor] = []  # the RGB head's picture, made where the latent projection is

        def network(
            x_t: Pixels, timestep: PerSample, latent: Latent, sigma: PerSample, caption: Caption | None
        ) -> Pixels:
            velocity: Tensor
            velocity, picture = self.painter(x_t, timestep, latent, sigma, caption, rgb=True)
            seen.append(picture)
            return velocity

        return teacher_step(
            network if has_rgb else self.painter,
            batch.pixels,
            batch.latent,
            draws,
            self.step_settings,
            caption=batch.caption,
            empty_caption=self.empty,
            native=batch.native,
            predict_rgb=(lambda latent: seen.pop()) if has_rgb else None,
            sources=batch.sources,
        )

    def sample(self, average: nn.Module) -> Tensor:
        return picture_of(average, self.row, self.data.example(), self.null)

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path:
        return export(average, self.row, folder, f"latpix.training.recipes.{self.made_by}, {steps} steps")
