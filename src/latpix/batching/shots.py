"""What a run of ``latpix generate`` makes: the names of all files, checked before any work starts.

| file in OUT                    | is                                                         |
| ------------------------------ | ---------------------------------------------------------- |
| ``<stem>_step24.safetensors``  | the latent after 24 steps; ``_final`` that after the last  |
| ``<stem>_step24_native.png``   | the backbone's own decode of it                            |
| ``<stem>_step24.png``          | ours                                                       |
| ``<stem>_step24_pair.png``     | both, side by side, at our size                            |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latpix.batching.inputs import Failure
from latpix.batching.outputs import Existing, check_folder, check_new
from latpix.batching.prompts import Prompt
from latpix.batching.results import read_results
from latpix.distributed import Ranks
from latpix.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One latent of one prompt, and the files that are made of it."""

    prompt: Prompt
    step: int  # steps done when it is taken
    latent: Path
    native: Path
    picture: Path
    pair: Path

    def files(self, *, latents_only: bool) -> tuple[Path, ...]:
        """What a run makes of it."""
        return (self.latent,) if latents_only else (self.latent, self.native, self.picture, self.pair)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one process has to generate; ``outputs``, ``skipped`` and ``inputs`` as of ``Work``."""

    folder: Path
    shots: list[list[Shot] | Failure]  # of each prompt
    inputs: int
    skipped: list[Path]
    latents_only: bool
    steps: int  # of a whole run of the backbone

    @property
    def outputs(self) -> int:
        """How many latents will be decoded, or saved."""
        return sum(len(shots) for shots in self.shots if not isinstance(shots, Failure))

    @property
    def failures(self) -> list[Failure]:
        """Prompts that cannot be used."""
        return [shots for shots in self.shots if isinstance(shots, Failure)]


def plan_generation(
    prompts: Sequence[Prompt | Failure],
    out: Path,
    *,
    stops: Sequence[int],
    steps: int,
    suffix: str = ".png",
    latents_only: bool = False,
    existing: Existing = "refuse",
    ranks: Ranks | None = None,
) -> Generation:
    """Name all files, and check that each can be written.

    Args:
        prompts: of ``find_prompts``.
        out: a folder, made when missing.
        stops: steps after which a latent is taken; ``steps`` for the final one.
        steps: of a whole run of the backbone.
        suffix: of pictures.
        latents_only: make nothing but latent files.
        existing: what to do with files that are there already.
        ranks: this process among several.

    Raises:
        UsageError: ``out`` is a file's name, or two prompts would share their files.
        OutputError: a file that exists, a folder that cannot be made, or a ``results.jsonl`` that is none of ours.
    """
    if out.suffix and not out.is_dir():
        raise UsageError(f'"{out}" looks like a file, but several are made of each prompt; name a folder (no suffix).')
    check_folder(out)
    _check_stems(prompts)
    shots = [
        one if isinstance(one, Failure) else [_shot(one, step, steps, out, suffix) for step in sorted(set(stops))]
        for one in prompts
    ]
    lines = {line["output"] for line in read_results(out)}
    mine: list[list[Shot] | Failure] = []
    skipped = []
    for one in (ranks or Ranks()).share(shots):
        if isinstance(one, Failure) or existing == "overwrite":
            mine.append(one)
            continue
        files = {shot: shot.files(latents_only=latents_only) for shot in one}
        if existing == "refuse":
            check_new([path for paths in files.values() for path in paths if path.exists()])
        there = {shot: all(path.exists() for path in paths) for shot, paths in files.items()}
        done = [shot for shot in one if there[shot] and (latents_only or shot.picture.name in lines)]
        skipped += [shot.latent if latents_only else shot.picture for shot in done]
        mine.append([shot for shot in one if shot not in done])
    return Generation(
        folder=out, shots=mine, inputs=len(prompts), skipped=skipped, latents_only=latents_only, steps=steps
    )


def _shot(prompt: Prompt, step: int, steps: int, folder: Path, suffix: str) -> Shot:
    base = f"{prompt.stem}_final" if step == steps else f"{prompt.stem}_step{step}"
    return Shot(
        prompt=prompt,
        step=step,
        latent=folder / f"{base}.safetensors",
        native=folder / f"{base}_native{suffix}",
        picture=folder / f"{base}{suffix}",
        pair=folder / f"{base}_pair{suffix}",
    )


def _check_stems(prompts: Sequence[Prompt | Failure]) -> None:
    seen: dict[str, str] = {}
    for one in prompts:
        if isinstance(one, Failure):
            continue
        if one.stem in seen:
            raise UsageError(
                f'"{seen[one.stem]}" and "{one.text}" would both be saved as "{one.stem}"; name them apart.'
            )
        seen[one.stem] = one.text
