"""A backbone is loaded by its row, run once for several latents, and really stops."""

import json
import shutil
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_pipeline, tiny_pipeline

from latpix.backbones.generate import check_native_size, check_stops, generate_latents, generator_of, load_pipeline
from latpix.backbones.registry import BACKBONES, find_backbone
from latpix.backbones.states import run_until
from latpix.errors import CheckpointError, DownloadError, MissingExtraError, OptionError, ScheduleError, UsageError
from latpix.latents.check import check_latent

HEIGHT, WIDTH, STEPS = 64, 96, 4
NAMES = ("flux", "flux2", "flux2-klein-4b", "sd3", "sdxl", "qwenimage", "zimage")


@cache
def pipeline(name):
    return tiny_pipeline(name)


def generate(name, **given):
    given = {"prompt": "a cat", "steps": STEPS, "height": HEIGHT, "width": WIDTH, "seed": 5} | given
    return generate_latents(pipeline(name), find_backbone(name), **given)


@cache
def whole(name):
    return generate(name, stop_at=(2, 3))


@pytest.fixture
def denoiser_calls():
    """How often each pipeline's denoiser was called."""
    counts, handles = {}, []

    def watch(name):
        pipe = pipeline(name)
        denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        handles.append(denoiser.register_forward_hook(lambda *_: counts.update({name: counts.get(name, 0) + 1})))
        return counts

    yield watch
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_one_run_gives_every_latent_that_is_asked_for(name, denoiser_calls):
    counts = denoiser_calls(name)
    latents = generate(name, stop_at=(3, 2))
    assert counts[name] == STEPS * (2 if name == "qwenimage" else 1)
    assert list(latents) == [2, 3, STEPS]
    levels = [latent.latent_sigma for latent in latents.values()]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    for step, latent in latents.items():
        assert (latent.caption, latent.seed, latent.space) == ("a cat", 5, find_backbone(name).space)
        assert (latent.native_height, latent.native_width) == (HEIGHT, WIDTH)
        assert latent.source == f"{name}, step {step} of 4"
        check_latent(latent.tensor, latent.space)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_final_latent_the_run_ends_at_the_last_stop(name, denoiser_calls):
    counts = denoiser_calls(name)
    latents = generate(name, stop_at=[2], final=False)
    assert counts[name] == 2 * (2 if name == "qwenimage" else 1)
    assert list(latents) == [2]
    assert torch.equal(latents[2].tensor, whole(name)[2].tensor)
    assert latents[2].latent_sigma == whole(name)[2].latent_sigma


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_and_the_prompt_decide(name):
    assert torch.equal(generate(name)[STEPS].tensor, whole(name)[STEPS].tensor)
    for other in ({"seed": 6}, {"prompt": "two dogs"}):
        assert not torch.equal(generate(name, **other)[STEPS].tensor, whole(name)[STEPS].tensor)


@pytest.mark.parametrize("name", ["flux", "sd3", "sdxl", "qwenimage", "zimage"])
def test_guidance_is_handed_to_the_argument_that_works(name):
    guided = generate(name, guidance=1.5)
    assert not torch.equal(guided[STEPS].tensor, whole(name)[STEPS].tensor)
    default = generate(name, guidance=find_backbone(name).generator.guidance)
    assert torch.equal(default[STEPS].tensor, whole(name)[STEPS].tensor)


def test_the_same_comes_from_a_call_of_ones_own():
    generator = torch.Generator().manual_seed(5)
    size = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": STEPS}
    row = find_backbone("sd3").generator
    own = run_until(pipeline("sd3"), 3, prompt="a cat", generator=generator, guidance_scale=row.guidance, **size)
    assert torch.equal(own.tensor, whole("sd3")[3].tensor)


def test_steps_are_reported_as_they_are_done():
    seen = []
    generate("sd3", stop_at=[3], final=False, on_step=lambda *args: seen.append(args))
    assert seen == [(1, 4), (2, 4), (3, 4)]


def test_steps_are_the_backbones_own_unless_given():
    assert list(generate("flux2-klein-4b", steps=None)) == [4]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prompt": None}, UsageError, "give a prompt"),
        ({"stop_at": [5]}, ScheduleError, '"sd3" runs 4 steps, so it cannot stop after 5: give 1 to 4'),
        ({"stop_at": [0]}, ScheduleError, "cannot stop after 0"),
        ({"steps": 0}, ScheduleError, "cannot run 0 steps"),
        ({"final": False}, UsageError, "nothing is to be taken"),
        ({"width": 100}, OptionError, "The nearest: 96x64 or 112x64"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(given, error, message, denoiser_calls):
    counts = denoiser_calls("sd3")
    with pytest.raises(error, match=message):
        generate("sd3", **given)
    assert not counts


def test_a_pipeline_of_another_backbone_is_refused():
    with pytest.raises(UsageError, match='"flux" is run by FluxPipeline, but this pipeline is a StableDiffusion3'):
        generate_latents(pipeline("sd3"), find_backbone("flux"), prompt="a", height=64, width=64, seed=0)


@pytest.mark.parametrize("name", ["dinov2", "siglip"])
def test_a_backbone_outside_diffusers_says_where_it_is_explained(name):
    with pytest.raises(UsageError, match=r"docs/guide/rae\.md"):
        generator_of(find_backbone(name))


@pytest.mark.parametrize(
    ("height", "width", "nearest"),
    [(1000, 1000, "992x992 or 1008x1008"), (8, 30, "16x16 or 32x16"), (512, 520, "512x512")],
)
def test_a_size_that_is_not_made_names_the_nearest(height, width, nearest):
    with pytest.raises(OptionError, match=nearest):
        check_native_size(find_backbone("flux"), height, width)
    check_native_size(find_backbone("flux"), 16, 1024)


def test_a_stop_that_leaves_too_much_noise_names_the_first_that_does_not():
    row = find_backbone("flux2")
    asked = {"steps": 50, "height": 1024, "width": 1024}
    with pytest.raises(OptionError, match=r"after 20 of 50 steps, .* clean enough is (\d+)") as error:
        check_stops(row, [46, 20], **asked, max_latent_sigma=0.8)
    first = int(str(error.value).split("clean enough is ")[1].split()[0])
    check_stops(row, [first], **asked, max_latent_sigma=0.8)
    with pytest.raises(OptionError):
        check_stops(row, [first - 1], **asked, max_latent_sigma=0.8)
    check_stops(row, [20], **asked)
    with pytest.raises(ScheduleError, match="give 1 to 50"):
        check_stops(row, [51], **asked)


def test_the_scheduler_of_a_folder_decides_how_noisy_a_stop_is(saved):
    row = find_backbone("zimage")
    asked = {"steps": 4, "height": 64, "width": 64, "max_latent_sigma": 0.8}
    with pytest.raises(OptionError):
        check_stops(row, [2], **asked, model=saved("zimage"))
    path = saved("zimage") / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "shift": 1.0}))
    check_stops(row, [2], **asked, model=saved("zimage"))
    path.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a saved tiny pipeline."""
    folder = tmp_path_factory.mktemp("models")

    def folder_of(name):
        if not (folder / name).exists():
            save_pipeline(pipeline(name), folder / name)
        return folder / name

    return folder_of


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_pipeline_is_loaded_and_gives_the_same_latents(name, saved):
    row = find_backbone(name)
    pipe = load_pipeline(row, model=saved(name), device="cpu", dtype="float32")
    given = {"prompt": "a cat", "steps": STEPS, "height": HEIGHT, "width": WIDTH, "seed": 5, "stop_at": [2]}
    latents = generate_latents(pipe, row, **given, final=False)
    # Weights that lie elsewhere in memory are added up in another order.
    torch.testing.assert_close(latents[2].tensor, whole(name)[2].tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["flux", "sdxl", "zimage"])
def test_a_pipeline_runs_in_bfloat16(name, saved, capfd):
    row = find_backbone(name)
    pipe = load_pipeline(row, model=saved(name), device="cpu", dtype="bfloat16")
    assert pipe.vae.dtype == torch.bfloat16
    given = {"prompt": "a cat", "steps": STEPS, "height": HEIGHT, "width": WIDTH, "seed": 5}
    latent = generate_latents(pipe, row, **given)[STEPS]
    assert latent.tensor.dtype == torch.float32
    assert "it/s" not in capfd.readouterr().err  # nobody watches


def test_progress_bars_of_other_libraries_are_on_again_afterwards(saved):
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = of_diffusers.is_progress_bar_enabled(), of_transformers.is_progress_bar_enabled()
    load_pipeline(find_backbone("sdxl"), model=saved("sdxl"), device="cpu", dtype="float32")
    assert (of_diffusers.is_progress_bar_enabled(), of_transformers.is_progress_bar_enabled()) == before


def test_another_backbones_folder_names_the_backbone_that_it_is(saved):
    with pytest.raises(UsageError, match=r'"flux" is run by FluxPipeline\. Take --backbone zimage or zimage-turbo'):
        load_pipeline(find_backbone("flux"), model=saved("zimage"), device="cpu")


def test_a_folder_without_a_pipeline_says_so(tmp_path):
    for model in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"model_index\.json"):
            load_pipeline(find_backbone("flux"), model=model, device="cpu")


def test_a_pipeline_without_all_its_weights_names_those(saved, tmp_path):
    folder = shutil.copytree(saved("sd3"), tmp_path / "sd3")
    (weights,) = (folder / "transformer").glob("*.safetensors")
    save_file({k: v for k, v in load_file(weights).items() if k != "proj_out.bias"}, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks transformer\.proj_out\.bias"):
        load_pipeline(find_backbone("sd3"), model=folder, device="cpu", dtype="float32")
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded as a StableDiffusion3Pipeline"):
        load_pipeline(find_backbone("sd3"), model=folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("model", [None, "someone/something"])
def test_what_the_hub_does_not_give_comes_with_the_way_by_hand(model):
    with pytest.raises(DownloadError) as error:
        load_pipeline(find_backbone("flux"), model=model, device="cpu")
    message = str(error.value)
    assert "no connection" in message
    assert "hf download black-forest-labs/FLUX.1-dev --local-dir DIR" in message
    assert "--model DIR" in message


def test_offloading_from_a_cpu_is_refused(saved):
    with pytest.raises(OptionError, match="the device is the CPU"):
        load_pipeline(find_backbone("sd3"), model=saved("sd3"), device="cpu", offload=True)


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_a_library_that_is_missing_is_named_with_its_extra(library, monkeypatch):
    from latpix.backbones import generate as module

    monkeypatch.setattr(module, "find_spec", lambda name: None if name == library else object())
    with pytest.raises(MissingExtraError, match=rf'{library}: pip install "latpix\[backbones\]"'):
        load_pipeline(find_backbone("flux"), device="cpu")


def test_a_diffusers_without_the_class_is_too_old(monkeypatch):
    old = ModuleType("diffusers")
    old.__spec__, old.__version__ = ModuleSpec("diffusers", None), "0.30"
    monkeypatch.setitem(sys.modules, "diffusers", old)
    with pytest.raises(MissingExtraError, match=r"0\.30 has no Flux2KleinPipeline"):
        load_pipeline(find_backbone("flux2-klein-4b"), device="cpu")


def test_every_backbone_but_the_vision_encoders_generates():
    assert [row.name for row in BACKBONES.values() if row.generator is None] == ["dinov2", "siglip"]
