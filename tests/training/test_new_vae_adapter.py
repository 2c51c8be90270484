"""A new VAE under an existing decoder: what learns, what stays, what the file is, and what cannot be adapted."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_networks import small_network
from small_official import ENCODER, LEARNING, RUN, SHAPES, small
from small_shards import pack_small, write_pictures

from latpix import Decoder
from latpix.captions.cache import store
from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.checkpoints.load import load, save
from latpix.checkpoints.registry import find
from latpix.data.ahead import Encoding
from latpix.errors import LatentError, UsageError
from latpix.training import shard_pairs
from latpix.training.forecast import forecast
from latpix.training.job import SampleDraws
from latpix.training.learning import ADAPTER
from latpix.training.log import read_log
from latpix.training.loop import train
from latpix.training.lora import RANK
from latpix.training.parallel import World
from latpix.training.recipes import new_vae_adapter as recipe
from latpix.training.recipes.new_vae_adapter import AVERAGED, adapted, build, config, outline

CPU = torch.device("cpu")
LORA = [
    *(f"patch_blocks.{i}.image.{part}" for i in (0, 1) for part in ("qkv", "out", "mlp.gate", "mlp.up", "mlp.down")),
    *(f"pixel_blocks.0.mlp.{part}" for part in ("up", "down")),
]
STUDENT, TEACHER = "flux2-2kto4k-v1.5", "flux2-2kto4k-v1.5-teacher"  # whose latents flux2-lite makes, which is here


class NewVae:
    """Sixteen numbers of each block of 8 x 8 pixels: a linear map, so that it keeps what a picture is."""

    space, downsample, native_side, sha256, device = "sd3", 8, None, "0" * 64, CPU
    kernel = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 4

    def encode(self, pixels):
        return F.conv2d(pixels, self.kernel, stride=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards with latents of the new VAE, a student and a teacher, and states of all captions in the cache."""
    folder = tmp_path_factory.mktemp("adapter")
    pictures = write_pictures(folder / "pictures", SHAPES)
    pack_small(pictures, folder / "shards", encoding=Encoding(codec=NewVae(), scale=4))
    pack_small(pictures, folder / "bare")
    for name in (STUDENT, TEACHER):
        row = small(find(name))
        save(small_network(row.network), row, folder / f"{name}.safetensors")
    generator = torch.Generator().manual_seed(1)
    for text in ("", NEGATIVE_PROMPT, *(f"picture {number}" for number in range(0, len(SHAPES), 2))):
        store(ENCODER, text, torch.randn(300, 12, generator=generator).bfloat16())
    return folder


def settings_of(folder, start, **changes):
    places = {"shards": str(folder / "shards"), "start": str(folder / f"{start}.safetensors")}
    own = {"space": "sd3", "old_vae": "flux2-lite", "caption_model": ENCODER, "batch": 2, "size": 96}
    return replace(config(), **{**RUN, **LEARNING, **places, **own, "steps": 2, "sample_every": 2, **changes})


def run(folder, start, out, **changes):
    """What is loaded of the run's file, and the names of the weights that are not the existing decoder's any more."""
    settings = settings_of(folder, start, **changes)
    outcome = train(build(settings, None, CPU), settings, out, world=World(CPU))
    made, existing = load(outcome.weights), load(settings.start).network.state_dict()
    dtype = torch.bfloat16 if start == STUDENT else torch.float32  # in which students are saved
    moved = {
        name
        for name, weight in made.network.state_dict().items()
        if name not in existing or not torch.equal(weight, existing[name].to(dtype).float())
    }
    return made, moved


def adapter_names(network):
    return {name for name in network.state_dict() if name.startswith(ADAPTER)}


def test_of_a_student_only_the_adapter_learns_and_the_file_decodes_latents_of_the_new_space(folder, tmp_path):
    made, moved = run(folder, STUDENT, tmp_path / "run")
    assert moved <= adapter_names(made.network)  # bfloat16 may round a small step of a gate's away
    assert {"gates.0.proj.weight", "pixel_gate.proj.weight", "latent_projection.heads.0.weight"} <= moved
    assert (made.row.name, made.row.space) == (f"{STUDENT}-on-sd3", "sd3")
    assert (made.row.network.latent_channels, made.row.network.latent_unpatchify) == (16, 1)
    assert made.row.sampling == small(find(STUDENT)).sampling
    assert [set(line) & {"x0", "flow", "rgb"} for line in read_log(tmp_path / "run")] == [{"x0"}] * 2
    decoder = Decoder.load(made.path, device="cpu", dtype="float32")
    pixels = decoder.decode(torch.randn(1, 16, 8, 8), caption=torch.randn(1, 300, 12))
    assert pixels.shape == (1, 3, 256, 256)
    assert (tmp_path / "run/samples/step_00000002.png").is_file()


def test_with_lora_the_backbone_is_changed_too_where_it_has_adapters(folder, tmp_path):
    made, moved = run(folder, STUDENT, tmp_path / "run", train="lora")
    changed = moved - adapter_names(made.network)
    assert changed == {f"{layer}.weight" for layer in LORA}


def test_a_teacher_goes_on_by_flow_matching_with_its_rgb_head(folder, tmp_path):
    made, moved = run(folder, TEACHER, tmp_path / "run")
    assert moved == adapter_names(made.network)
    assert any("rgb_head" in name for name in moved)
    assert made.row.sampling.kind == "teacher"
    assert all({"flow", "rgb"} <= set(line) for line in read_log(tmp_path / "run"))


def test_what_fits_the_new_space_is_kept_and_a_few_steps_bring_the_student_nearer_to_itself(folder):
    job = build(settings_of(folder, STUDENT, noised=0.0), None, CPU)
    new, old = (
        network.latent_projection.state_dict()
        for network in (job.painter.network, load(folder / f"{STUDENT}.safetensors").network)
    )
    fits = {name for name, weight in new.items() if weight.shape == old[name].shape}
    assert 0 < len(fits) < len(new)
    assert all(torch.equal(new[name], old[name]) for name in fits)
    batch, part = job.draw(0, range(2)), job.parts[AVERAGED]
    optimizer = torch.optim.Adam([weight for weight in part.network.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = job.losses(batch, 0, SampleDraws(0, 0, range(2))).total
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_plan_counts_the_student_beside_and_only_what_learns(folder):
    row = adapted(small(find(STUDENT)), config())
    learning, held = {}, {}
    for part in ("projection", "lora"):
        settings = settings_of(folder, STUDENT, train=part)
        plan = outline(settings, None)
        needs = forecast(plan, AVERAGED, settings)
        learning[part], held[part] = needs.learning, needs.parameters[AVERAGED]
    assert learning["projection"] == sum(
        math.prod(shape) for name, shape in row.shapes.items() if name.startswith(ADAPTER)
    )
    low_rank = sum(RANK * sum(row.shapes[f"{layer}.weight"]) for layer in LORA)
    assert learning["lora"] - learning["projection"] == held["lora"] - held["projection"] == low_rank
    assert plan.trained[AVERAGED].config == row.network
    assert plan.frozen["student"].config == small(find(STUDENT)).network
    assert [(call.network, call.backward) for call in plan.calls] == [(AVERAGED, True), ("student", False)]
    assert plan.samples_per_epoch == len(SHAPES)


@pytest.mark.parametrize(
    ("start", "space", "error", "message"),
    [
        ("flux2-tiny", "sd3", UsageError, "paints on a picture"),
        ("pixeldit-2kto4k", "sd3", UsageError, "reads no latent"),
        ("flux1-2k", "dinov2", UsageError, "is no VAE's"),
        ("siglip-2k", "sd3", UsageError, "is no VAE's"),
        ("flux1-2k", "sd4", LatentError, "sd3"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_words(start, space, error, message):
    with pytest.raises(error, match=message):
        adapted(find(start), replace(config(), space=space))


def test_without_a_name_the_vae_is_the_spaces_own_and_not_its_stand_in(folder, monkeypatch):
    asked = []

    def load_codec(space, *, vae, **_):
        asked.append((space, vae))
        raise KeyError

    monkeypatch.setattr(recipe, "load_codec", load_codec)
    monkeypatch.setattr(shard_pairs, "load_codec", load_codec)
    for changes in ({"old_vae": ""}, {"space": "flux2", "shards": str(folder / "bare")}):
        with pytest.raises(KeyError):
            build(settings_of(folder, STUDENT, **changes), None, CPU)
    assert asked == [("flux2", "black-forest-labs/FLUX.2-dev")] * 2


def test_latents_of_another_space_in_the_shards_are_refused(folder):
    with pytest.raises(UsageError, match=r'holds latents of space "sd3".*reads "qwen"'):
        build(settings_of(folder, STUDENT, space="qwen"), None, CPU)
