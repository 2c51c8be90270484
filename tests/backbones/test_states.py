"""Stopping early: the states of all seven pipelines, taken in the middle of a run, are those of a whole run."""

from functools import cache

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchHeunDiscreteScheduler, FluxPipeline
from diffusers.callbacks import SDXLCFGCutoffCallback
from tiny_models import tiny_pipeline

import latpix
from latpix import StopAt, run_until
from latpix.backbones.registry import BACKBONES
from latpix.backbones.states import PIPELINES, state_to_latent
from latpix.backbones.vae import denormalize_with
from latpix.errors import LatentError, ScheduleError, UsageError
from latpix.latents.packing import pack
from latpix.latents.spaces import LATENT_SPACES

HEIGHT, WIDTH, STEPS = 64, 96, 4
CLASSES = sorted(PIPELINES)
PACKED = [name for name in CLASSES if PIPELINES[name].generator.packed]
UNPACKED = sorted(set(CLASSES) - set(PACKED))
# numpy's remark on how diffusers makes an array of a tensor, in the calls that are the user's own
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@cache
def pipeline(name):
    return tiny_pipeline(name)


def call(name, **more):
    """What the pipeline is called with; the same noise every time."""
    generator = PIPELINES[name].generator
    return {
        **generator.arguments,
        generator.guidance_argument: generator.guidance,
        "prompt": "a cat",
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(7),
        "output_type": "latent",
        **more,
    }


@cache
def whole_run(name):
    """Every state of a run, by the number of steps done, the scheduler's levels, and what it returned."""
    states, pipe = {}, pipeline(name)

    def keep(_pipe, step, _timestep, given):
        states[step + 1] = given["latents"].clone()
        return given

    returned = pipe(**call(name, callback_on_step_end=keep))[0]
    return states, pipe.scheduler.sigmas.tolist(), returned


def as_latent(name, step):
    states, sigmas, _ = whole_run(name)
    return state_to_latent(states[step], name, sigma=sigmas[step], height=HEIGHT, width=WIDTH)


@pytest.fixture
def calls(request):
    """How often a pipeline's denoiser was called."""
    counts, handles = {}, []

    def watch(name):
        pipe = pipeline(name)
        denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        handles.append(denoiser.register_forward_hook(lambda *_: counts.update({name: counts.get(name, 0) + 1})))
        return counts

    yield watch
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", CLASSES)
def test_stopping_after_two_steps_gives_the_state_of_a_whole_run_to_the_bit(name, calls):
    expected = as_latent(name, 2)
    counts = calls(name)
    stop = StopAt(2, height=HEIGHT, width=WIDTH)
    pipeline(name)(**call(name, callback_on_step_end=stop))
    per_step = 2 if name == "QwenImagePipeline" else 1
    assert counts[name] == 2 * per_step
    space = LATENT_SPACES[PIPELINES[name].space]
    assert stop.latent.tensor.shape == (1, space.channels, HEIGHT // space.downsample, WIDTH // space.downsample)
    assert torch.equal(stop.latent.tensor, expected.tensor)
    assert stop.latent_sigma == expected.latent_sigma
    assert (stop.latent.native_height, stop.latent.native_width) == (HEIGHT, WIDTH)
    assert stop.latent.source == f"{name}, step 2 of 4"


@pytest.mark.parametrize("name", CLASSES)
def test_a_pipeline_that_was_stopped_gives_the_same_as_before(name):
    run_until(pipeline(name), 1, **call(name))
    assert torch.equal(pipeline(name)(**call(name))[0], whole_run(name)[2])


@pytest.mark.parametrize("name", CLASSES)
def test_what_the_pipeline_returns_is_the_last_state(name):
    *_, returned = whole_run(name)
    latent = state_to_latent(returned, name, height=HEIGHT, width=WIDTH, vae=pipeline(name).vae)
    # klein returns it raw: through the batch statistics and back
    tolerance = 1e-6 if name == "Flux2KleinPipeline" else 0
    torch.testing.assert_close(latent.tensor, as_latent(name, STEPS).tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CLASSES)
def test_the_noise_level_is_what_the_scheduler_has_after_the_step(name):
    sigma = whole_run(name)[1][2]
    latent_sigma = sigma / (sigma**2 + 1) ** 0.5 if name == "StableDiffusionXLPipeline" else sigma
    assert run_until(pipeline(name), 2, **call(name)).latent_sigma == pytest.approx(latent_sigma, abs=1e-7)
    assert as_latent(name, STEPS).latent_sigma == 0


def test_a_state_of_sdxl_is_scaled_to_unit_variance():
    name = "StableDiffusionXLPipeline"
    states, sigmas, _ = whole_run(name)
    expected = states[2] / (sigmas[2] ** 2 + 1) ** 0.5
    torch.testing.assert_close(run_until(pipeline(name), 2, **call(name)).tensor, expected)
    assert torch.equal(as_latent(name, STEPS).tensor, states[STEPS])


def test_what_is_stopped_returns_its_state_as_the_class_does():
    for name in ("FluxPipeline", "StableDiffusion3Pipeline"):
        stop = StopAt(2, height=HEIGHT, width=WIDTH)
        returned = pipeline(name)(**call(name, callback_on_step_end=stop))[0]
        assert torch.equal(returned, whole_run(name)[0][2])


def test_a_run_can_be_kept_at_several_steps_and_go_to_its_end(calls):
    name = "StableDiffusion3Pipeline"
    counts = calls(name)
    stop = StopAt([3, 1], stop=False)
    pipeline(name)(**call(name, callback_on_step_end=stop))
    assert counts[name] == STEPS
    assert list(stop.latents) == [1, 3]
    assert stop.latent is stop.latents[3]
    for step, latent in stop.latents.items():
        assert torch.equal(latent.tensor, as_latent(name, step).tensor)


def test_a_second_call_replaces_what_the_first_one_left():
    name, stop = "StableDiffusion3Pipeline", StopAt([1, 2])
    pipeline(name)(**call(name, prompt="two dogs", callback_on_step_end=stop))
    first = stop.latent
    pipeline(name)(**call(name, callback_on_step_end=stop))
    assert not torch.equal(first.tensor, stop.latent.tensor)
    assert torch.equal(stop.latent.tensor, as_latent(name, 2).tensor)


def test_bfloat16_states_are_widened_and_not_changed():
    pipe = tiny_pipeline("FluxPipeline").to(torch.bfloat16)
    stop = StopAt(2, height=HEIGHT, width=WIDTH)
    state = pipe(**call("FluxPipeline", callback_on_step_end=stop))[0]
    assert state.dtype == torch.bfloat16
    assert stop.latent.tensor.dtype == torch.float32
    assert torch.equal(pack(stop.latent.tensor, LATENT_SPACES["flux1"]), state.float())


def test_kleins_raw_output_is_normalized_with_its_own_statistics():
    name, space = "Flux2KleinPipeline", LATENT_SPACES["flux2"]
    vae = pipeline(name).vae
    latent = torch.randn(2, 128, 3, 5)
    raw = denormalize_with(latent, vae, space)
    torch.testing.assert_close(state_to_latent(raw, name, vae=vae).tensor, latent, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match=r"it is raw: give the pipeline's vae=\.\.\.\."):
        state_to_latent(raw, "flux2-klein-9b")


def test_a_frame_axis_is_dropped():
    latent = torch.randn(2, 16, 4, 6)
    assert torch.equal(state_to_latent(latent.unsqueeze(2), "qwenimage").tensor, latent)


@pytest.mark.parametrize("row", [row for row in BACKBONES.values() if row.generator], ids=lambda row: row.name)
def test_every_backbone_that_generates_has_its_class_in_the_table(row):
    known = PIPELINES[row.generator.class_name]
    assert (known.space, known.generator.packed) == (row.space, row.generator.packed)


def test_run_until_reads_the_size_the_prompt_and_the_seed_from_the_call():
    latent = run_until(pipeline("FluxPipeline"), step=2, **call("FluxPipeline"))
    assert torch.equal(latent.tensor, as_latent("FluxPipeline", 2).tensor)
    assert (latent.caption, latent.seed) == ("a cat", 7)
    assert latpix.run_until is run_until


def test_without_a_size_a_packed_pipeline_runs_at_its_own(monkeypatch):
    pipe = pipeline("QwenImagePipeline")
    monkeypatch.setattr(pipe, "default_sample_size", 8)  # cells
    latent = run_until(pipe, 1, **call("QwenImagePipeline", height=None, width=WIDTH))
    assert latent.tensor.shape == (1, 16, 8, 12)


@pytest.mark.parametrize("name", CLASSES)
def test_a_batch_of_prompts_and_pictures_comes_whole(name):
    generators = [torch.Generator().manual_seed(7 + k) for k in range(4)]
    more = {"negative_prompt": [" ", " "]} if name == "QwenImagePipeline" else {}
    prompts = ["a cat", "two dogs"]
    latent = run_until(
        pipeline(name),
        1,
        **call(name, prompt=prompts, num_images_per_prompt=2, generator=generators, **more),
    )
    assert len(latent.tensor) == 4
    assert (latent.caption, latent.seed) == (None, 7)
    alone = run_until(pipeline(name), 1, **call(name))
    torch.testing.assert_close(latent.tensor[:1], alone.tensor, rtol=1e-4, atol=1e-4)


def test_seeds_that_do_not_follow_each_other_are_none():
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 9)]
    latent = run_until(
        pipeline("ZImagePipeline"), 1, **call("ZImagePipeline", num_images_per_prompt=2, generator=generators)
    )
    assert (latent.caption, latent.seed) == ("a cat", None)


def test_a_callback_of_ones_own_runs_too_and_what_it_changes_is_kept():
    name, seen = "StableDiffusion3Pipeline", []

    def double(_pipe, step, timestep, given):
        seen.append((step, sorted(given), float(timestep)))
        return {"latents": 2 * given["latents"]} if step == 1 else given

    more = {"callback_on_step_end": double, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    latent = run_until(pipeline(name), 2, **call(name, **more))
    assert [step for step, *_ in seen] == [0, 1]
    assert seen[0][1] == ["latents", "prompt_embeds"]
    assert torch.equal(latent.tensor, 2 * as_latent(name, 2).tensor)


def test_a_callback_class_of_diffusers_gets_the_tensors_it_asks_for():
    name = "StableDiffusionXLPipeline"
    cut = SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    latent = run_until(pipeline(name), 2, **call(name, callback_on_step_end=cut))
    assert not torch.equal(latent.tensor, as_latent(name, 2).tensor)  # the second step was unguided


@pytest.mark.parametrize("name", PACKED)
def test_without_a_size_a_packed_state_is_refused_in_the_first_step(name, calls):
    counts = calls(name)
    stop = StopAt([2, 3])
    with pytest.raises(UsageError, match=r"Write StopAt\(\[2, 3\], height=\.\.\., width=\.\.\.\)"):
        pipeline(name)(**call(name, callback_on_step_end=stop))
    assert counts[name] <= 2


@pytest.mark.parametrize("name", UNPACKED)
def test_without_a_size_a_state_that_is_not_packed_is_taken(name):
    stop = StopAt(2)
    pipeline(name)(**call(name, callback_on_step_end=stop))
    assert torch.equal(stop.latent.tensor, as_latent(name, 2).tensor)


def test_more_steps_than_the_run_has_are_refused_in_its_first(calls):
    name = "StableDiffusion3Pipeline"
    counts = calls(name)
    with pytest.raises(ScheduleError, match=r"after step 5 .* this run has 4 steps"):
        run_until(pipeline(name), 5, **call(name))
    assert counts[name] == 1


@pytest.mark.parametrize("step", [0, -1, [], [2, 0]])
def test_a_step_that_is_none_is_refused_at_once(step):
    with pytest.raises(ScheduleError, match="1 or more"):
        StopAt(step)


def test_a_wrong_size_names_the_tokens():
    with pytest.raises(LatentError, match="there are 24 tokens"):
        pipeline("FluxPipeline")(**call("FluxPipeline", callback_on_step_end=StopAt(1, height=64, width=64)))


def test_an_unknown_pipeline_is_refused_with_those_that_are_known(monkeypatch):
    class NewPipeline(type(pipeline("StableDiffusion3Pipeline")).__mro__[1]):
        pass

    with pytest.raises(UsageError, match="NewPipeline is no pipeline that is known here; those are Flux2KleinPipeline"):
        run_until(NewPipeline(), 1)


def test_a_class_that_derives_from_a_known_one_is_known():
    class Mine(FluxPipeline):
        pass

    mine = Mine(**pipeline("FluxPipeline").components)
    mine.set_progress_bar_config(disable=True)
    assert torch.equal(run_until(mine, 2, **call("FluxPipeline")).tensor, as_latent("FluxPipeline", 2).tensor)


def test_schedulers_whose_states_are_something_else_are_refused(monkeypatch):
    for name, made in (
        ("StableDiffusionXLPipeline", DPMSolverMultistepScheduler),
        ("StableDiffusion3Pipeline", FlowMatchHeunDiscreteScheduler),
    ):
        pipe = pipeline(name)
        monkeypatch.setattr(pipe, "scheduler", made.from_config(pipe.scheduler.config))
        with pytest.raises(ScheduleError, match=r"Set pipe\.scheduler = (Flow|Euler)\w+\.from_config"):
            run_until(pipe, 1, **call(name))


def test_an_error_or_an_interrupt_gives_an_offloaded_model_back(monkeypatch):
    pipe, freed = pipeline("StableDiffusion3Pipeline"), []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append("freed"))
    with pytest.raises(ScheduleError):
        pipe(**call("StableDiffusion3Pipeline", callback_on_step_end=StopAt(9)))
    assert freed == ["freed"]

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_until(pipe, 1, **call("StableDiffusion3Pipeline", callback_on_step_end=interrupt))
    assert freed == ["freed"] * 2


def test_nothing_taken_is_said():
    with pytest.raises(UsageError, match="nothing was taken yet"):
        StopAt(1).latent  # noqa: B018


def test_a_callback_that_is_not_handed_the_state_says_so():
    name, inputs = "StableDiffusion3Pipeline", {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with pytest.raises(UsageError, match='put "latents" into'):
        pipeline(name)(**call(name, callback_on_step_end=StopAt(1), **inputs))
