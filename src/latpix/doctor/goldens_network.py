"""Recompute network and sampler goldens: single calls, whole decodes, tables of small functions.

A folder holds ``net_*.json``, ``sampler_*.json`` and ``functions.json``, each with a ``.safetensors`` of the same
name and weights named in it; everything about a case comes from its files.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from latpix.checkpoints.convert import config_from_upstream, to_ours
from latpix.doctor.rows import GoldenRow
from latpix.network.config import NetworkConfig
from latpix.network.latent_projection import align_latent
from latpix.network.layers import TIMESTEP_SCALE, pixel_positions, timestep_waves
from latpix.network.model import Condition, Denoiser
from latpix.network.rope import grid_rotation, rotate
from latpix.sampling.guidance import guide
from latpix.sampling.paths import Prediction
from latpix.sampling.samplers import Denoise, sample_multistep, sample_ode, sample_renoise
from latpix.sampling.schedules import DynamicShift, solver_times, student_times

# Largest absolute error allowed, from the goldens' README.
OUTPUT, INTERMEDIATE, STUDENT, SOLVER, SOLVER_MEAN, FUNCTION = 5e-5, 1e-4, 2e-4, 5e-3, 3e-4, 5e-6
DOCUMENTARY = ("_mask_quirk",)  # literal behaviour of an unused argument; nothing reproduces it
STATIC_SHIFT = 6.0

Tensors = dict[str, Tensor]
Entries = dict[str, Any]


def run(folder: Path, device: torch.device | str = "cpu") -> Iterator[GoldenRow]:
    """A row per case found in ``folder``; families that are absent or unknown are skipped with a line on stderr."""
    cases = sorted(folder.glob("*.json"))
    if not cases:
        print(f"no network goldens in {folder}", file=sys.stderr)
    for path in cases:
        name = path.stem
        if any(mark in name for mark in DOCUMENTARY):
            continue
        runner = next((r for start, r in RUNNERS.items() if name.startswith(start)), None)
        if runner is None:
            print(f"skipped {path}: no golden of a known family", file=sys.stderr)
            continue
        description = json.loads(path.read_text())
        needed = [path.with_suffix(".safetensors"), folder / description.get("weights", path.name)]
        if missing := [file.name for file in needed if not file.is_file()]:
            print(f"skipped {path}: {' and '.join(missing)} is missing beside it", file=sys.stderr)
            continue
        tensors = load_file(path.with_suffix(".safetensors"), device=str(device))
        yield GoldenRow.of(f"network/{name}", "network", runner(folder, description, tensors))


def load_network(folder: Path, description: dict[str, Any], device: torch.device) -> Denoiser:
    """The network of a case: its own configuration, its weights widened to float32, loaded strictly."""
    network = Denoiser(config_from_upstream(description["net"], description["net_class"])).eval().requires_grad_(False)
    weights = load_file(folder / description["weights"], device=str(device))
    network.to(device).load_state_dict({name: w.float() for name, w in to_ours(weights).items()})
    return network


def run_network(folder: Path, description: dict[str, Any], tensors: Tensors) -> float:
    """One call of the network, with every intermediate that the file holds."""
    given = {name.removeprefix("in."): t for name, t in tensors.items() if name.startswith("in.")}
    network = load_network(folder, description, given["x"].device)
    seen: Tensors = {}
    hooks = list(watch(network, seen))
    condition = condition_of(network, given, *given["x"].shape[-2:])
    seen["out.output"] = network(given["x"], given["t"], condition)
    for hook in hooks:
        hook.remove()
    if "out.pred_lq_rgb" in tensors:
        seen["out.pred_lq_rgb"] = predict_rgb(network, condition, given.get("lq_mask"))
    worst = 0.0
    for name, expected in tensors.items():
        if name.startswith("in."):
            continue
        if name.startswith("out.feature_block"):
            image = seen[f"mid.block{name.removeprefix('out.feature_block')}_out_img"]
            actual = image.transpose(1, 2).unflatten(2, (condition.rows, condition.columns))
        else:
            actual = seen[name].reshape(expected.shape)
        tolerance = OUTPUT if name in ("out.output", "out.pred_lq_rgb") else INTERMEDIATE
        worst = max(worst, largest(actual - expected) / tolerance)
    return worst


def condition_of(network: Denoiser, given: Tensors, height: int, width: int) -> Condition:
    """A golden's inputs, by upstream's names, as a condition."""
    return network.condition(
        height=height,
        width=width,
        latent=given.get("lq_latent"),
        latent_sigma=given.get("degrade_sigma"),
        caption=given["y"],
        image=given.get("lq_video_or_image"),
        keep=given.get("lq_mask"),
    )


def predict_rgb(network: Denoiser, condition: Condition, keep: Tensor | None) -> Tensor:
    """The RGB head's picture at native size."""
    assert condition.features is not None
    assert condition.features.rgb_source is not None
    assert network.latent_projection.rgb_head is not None
    rgb: Tensor = network.latent_projection.rgb_head(condition.features.rgb_source)
    return rgb if keep is None else rgb * keep.view(-1, 1, 1, 1)


def watch(network: Denoiser, seen: Tensors) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """Record intermediates under the goldens' names."""

    def output(module: nn.Module, *names: str) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _args: object, out: Tensor | tuple[Tensor | None, ...]) -> None:
            for name, value in zip(names, out if isinstance(out, tuple) else (out,), strict=False):
                if value is not None:
                    seen[f"mid.{name}"] = value

        return module.register_forward_hook(keep)

    def inputs(module: nn.Module, *names: str) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, args: tuple[object, ...]) -> None:
            for name, value in zip(names, args, strict=False):
                if isinstance(value, Tensor):
                    seen[f"mid.{name}"] = value

        return module.register_forward_pre_hook(keep)

    yield output(network.time_embedding, "t_emb")
    yield output(network.patch_embedding, "s_patch_embed")
    if network.caption_embedding is not None:
        yield output(network.caption_embedding.norm, "y_embed_before_pos")
    if network.config.latent_channels:
        heads = [*network.latent_projection.heads, network.latent_projection.pixel_head]
        for k, head in enumerate(head for head in heads if head is not None):
            yield output(head, f"lq_out{k}")
    for i, block in enumerate(network.patch_blocks):
        yield inputs(block, f"block{i}_in_img", f"block{i}_in_txt")
        yield output(block, f"block{i}_out_img", f"block{i}_out_txt")
    yield inputs(network.pixel_blocks[0], "pixel_tokens", "s_cond")
    for j, block in enumerate(network.pixel_blocks):
        yield output(block, f"pixel_block{j}_out")


def run_sampler(folder: Path, description: dict[str, Any], tensors: Tensors) -> float:
    """One whole decode from recorded noise."""
    options, noise = description["sampler"], tensors["noise"]
    network = load_network(folder, description, noise.device)
    prediction: Prediction = options.get("prediction_type", "velocity")
    denoise = bind(network, condition_of(network, tensors, *noise.shape[-2:]))

    def recorded(draw: int) -> Tensor:
        return noise if draw == 0 else tensors[f"eps{draw - 1}"]

    expected = tensors["output"][:, :, 0]
    if description["kind"] == "student":
        steps, trained = options["num_steps"], options.get("train_steps", 4)
        times = student_times(options["t_list"], steps, trained_steps=trained)
        sample = sample_ode if options.get("sample_type") == "ode" else sample_renoise
        pixels = sample(denoise, recorded, times, prediction=prediction).clamp(-1, 1)
        return largest(pixels - expected) / STUDENT
    null = {**tensors, "y": tensors["y_null"].expand(len(noise), -1, -1)}
    denoise_null = bind(network, condition_of(network, null, *noise.shape[-2:]))
    denoise = guide(denoise, denoise_null, options["cfg_scale"])
    times = solver_times(options["num_steps"], shift_of(options, *noise.shape[-2:]))
    pixels = sample_multistep(denoise, recorded, times, prediction=prediction).clamp(-1, 1)
    error = pixels - expected
    return max(largest(error) / SOLVER, float(error.abs().mean()) / SOLVER_MEAN)


def bind(network: Denoiser, condition: Condition) -> Denoise:
    """The network as samplers see it."""
    return lambda x_t, t: network(x_t, TIMESTEP_SCALE * t, condition)


def shift_of(options: dict[str, Any], height: int, width: int) -> float:
    """An explicit shift wins over a dynamic one, that over the configured one."""
    if options.get("shift") is not None:
        return float(options["shift"])
    dynamic = options.get("dynamic_shift")
    if dynamic is not None:
        base, reference = dynamic["base_shift"], dynamic["base_image_size_for_shift_calc"]
        return DynamicShift(base=base, reference=reference).at(height, width)
    return float(options.get("cfg_shift", STATIC_SHIFT))


def run_functions(_folder: Path, description: dict[str, Any], tensors: Tensors) -> float:
    """Tables of small functions; entries are recognised by their name's start."""
    worst = 0.0
    for name in description["entries"]:
        for start, function in FUNCTIONS.items():
            if name.startswith(start):
                worst = max(worst, function(name, description["entries"], tensors))
                break
        else:
            print(f"skipped function {name}: unknown", file=sys.stderr)
    return worst / FUNCTION


def _timestep(name: str, _entries: Entries, tensors: Tensors) -> float:
    return largest(timestep_waves(tensors[f"{name}.t"]) - tensors[f"{name}.emb"])


def _rope(name: str, entries: Entries, tensors: Tensors) -> float:
    entry = entries[name]
    worst = 0.0
    for mode, reference in {"original": None, "ntk_aware": (entry["ref_grid_h"], entry["ref_grid_w"])}.items():
        rotation = grid_rotation(entry["grid_h"], entry["grid_w"], entry["head_dim"], reference=reference)
        for part, table in {"cos": rotation.cos, "sin": rotation.sin}.items():
            expected = tensors[f"{name}.{mode}.{part}"]
            worst = max(worst, largest(table.to(expected.device) - expected))
    return worst


def _rope_apply(name: str, entries: Entries, tensors: Tensors) -> float:
    table = entries["rope0"]
    rotation = grid_rotation(table["grid_h"], table["grid_w"], table["head_dim"], device=tensors[f"{name}.q"].device)
    return max(largest(rotate(tensors[f"{name}.{x}"], rotation) - tensors[f"{name}.{x}_out"]) for x in "qk")


def _pixel_positions(name: str, entries: Entries, tensors: Tensors) -> float:
    entry = entries[name]
    h, w, e = entry["height"], entry["width"], entry["dim"]
    columns = pixel_positions(w, e, dtype=torch.float64).expand(h, w, -1)
    rows = pixel_positions(h, e, dtype=torch.float64)[:, None].expand(h, w, -1)
    return largest(torch.cat([columns, rows], dim=-1).flatten(0, 1) - tensors[f"{name}.table"].cpu())


def _align(name: str, entries: Entries, tensors: Tensors) -> float:
    entry = entries[name]
    latent = tensors[f"{name}.latent"]
    config = NetworkConfig(
        latent_channels=latent.shape[1],
        latent_downsample=entry["latent_spatial_down_factor"],
        scale=entry["sr_scale"],
        patch_size=entry["patch_size"],
        latent_unpatchify=entry["unpatchify"],
    )
    return largest(align_latent(latent, *entry["grid"], config=config) - tensors[f"{name}.out"])


def _solver_times(name: str, entries: Entries, tensors: Tensors) -> float:
    entry = entries[name]
    expected = tensors[name]
    return largest(solver_times(entry["steps"], entry["shift"]).to(expected.device) - expected)


def _student_times(name: str, entries: Entries, _tensors: Tensors) -> float:
    entry: dict[str, list[float]] = entries[name]
    schedule = entry["4"]
    return max(largest(student_times(schedule, int(n)) - torch.tensor(times)) for n, times in entry.items())


def _dynamic_shift(name: str, entries: Entries, _tensors: Tensors) -> float:
    worst = 0.0
    for row in entries[name]:
        shift = DynamicShift(base=row["base_shift"], reference=row["base_size"]).at(row["h"], row["w"])
        worst = max(worst, abs(shift - float(row["shift"])))
    return worst


def largest(error: Tensor) -> float:
    """The largest entry; a result that is not a number is infinitely wrong."""
    worst = float(error.abs().max())
    return worst if worst == worst else float("inf")


Runner = Callable[[Path, dict[str, Any], Tensors], float]
RUNNERS: dict[str, Runner] = {"net_": run_network, "sampler_": run_sampler, "functions": run_functions}
FUNCTIONS: dict[str, Callable[[str, Entries, Tensors], float]] = {
    "timestep": _timestep,
    "rope_apply": _rope_apply,
    "rope": _rope,
    "pixelpos": _pixel_positions,
    "align": _align,
    "t_lists": _student_times,
    "solver_t_": _solver_times,
    "dynamic_shift": _dynamic_shift,
}
