"""Text to pictures through real tiny pipelines: files, resuming, one go against two, one process against two."""

import json
from functools import cache

import pytest
import torch
from small_decoder import write_space_checkpoint
from tiny_models import save_pipeline, tiny_pipeline

from latpix import Decoder, read_latent, read_picture
from latpix.backbones.registry import find_backbone
from latpix.backbones.sources import PipelineSource
from latpix.batching.generate import BackboneCall, GenerationRun
from latpix.batching.inputs import Failure
from latpix.batching.painting import Painting
from latpix.batching.prompts import find_prompts
from latpix.batching.results import read_results
from latpix.batching.shots import plan_generation
from latpix.checkpoints.load import peek
from latpix.cli.main import run
from latpix.distributed import Ranks
from latpix.errors import OutputError

HEIGHT, WIDTH, STEPS = 64, 96, 4
BACKBONES = ("flux", "flux2", "flux2-klein-4b", "sd3", "sdxl", "qwenimage", "zimage")


@cache
def pipeline(name):
    return tiny_pipeline(name)


def generator(folder, name, checkpoint, *, prompts=("a cat", "a dog"), stops=(2,), open_pipeline=None, **options):
    """One run of ``latpix generate``, with its models in hand."""
    row = find_backbone(name)
    given = {key: options.pop(key) for key in ("existing", "ranks", "latents_only") if key in options}
    work = plan_generation(find_prompts(prompts), folder, stops=stops, steps=STEPS, **given)

    def source():
        return PipelineSource(pipe=pipeline(name), row=row, height=HEIGHT, width=WIDTH, steps=STEPS)

    seed = options.pop("seed", 3)
    asked = BackboneCall(row=row, open=open_pipeline or source, height=HEIGHT, width=WIDTH, steps=STEPS, seed=seed)
    return GenerationRun(
        work,
        asked,
        None if given.get("latents_only") else peek(checkpoint),
        lambda: Decoder.load(checkpoint, device="cpu", dtype="float32"),
        Painting(steps=1),
        **options,
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    spaces = {find_backbone(name).space for name in BACKBONES}
    return {space: write_space_checkpoint(folder / f"{space}.safetensors", space) for space in spaces}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_goes_from_a_prompt_to_a_picture_four_times_larger(name, checkpoints, tmp_path):
    checkpoint = checkpoints[find_backbone(name).space]
    (row,) = generator(tmp_path / "a", name, checkpoint, prompts=("a cat",), stops=(2,)).run()
    stem = "0000_a-cat_step2"
    suffixes = (".png", ".safetensors", "_native.png", "_pair.png")
    assert names(tmp_path / "a") == sorted([*(stem + suffix for suffix in suffixes), "results.jsonl"])
    assert read_picture(row.output).shape == (1, 3, 4 * HEIGHT, 4 * WIDTH)
    assert read_picture(tmp_path / "a" / f"{stem}_native.png").shape == (1, 3, HEIGHT, WIDTH)
    latent = read_latent(tmp_path / "a" / f"{stem}.safetensors")
    assert (latent.caption, latent.seed, latent.native_height) == ("a cat", 3, HEIGHT)
    assert 0 < latent.latent_sigma < 1
    list(generator(tmp_path / "b", name, checkpoint, prompts=("a cat",), stops=(2,)).run())
    assert same(row.output, tmp_path / "b")


def same(picture, folder):
    """Equal pixels: the metadata names the folder."""
    return torch.equal(read_picture(picture), read_picture(folder / picture.name))


def test_one_run_serves_several_stops_and_the_end(checkpoints, tmp_path):
    rows = list(generator(tmp_path, "sd3", checkpoints["sd3"], prompts=("a cat",), stops=(2, 3, STEPS)).run())
    assert [row.output.name for row in rows] == [f"0000_a-cat_{end}.png" for end in ("step2", "step3", "final")]
    assert [row.latent_sigma for row in rows] == sorted((row.latent_sigma for row in rows), reverse=True)
    assert rows[-1].latent_sigma == 0
    assert [line["step"] for line in read_results(tmp_path)] == [2, 3, 4]
    assert {line["prompt"] for line in read_results(tmp_path)} == {"a cat"}


def test_latents_saved_first_and_decoded_later_give_the_same_bits(checkpoints, tmp_path):
    folder = tmp_path / "two"
    list(generator(tmp_path / "one", "sd3", checkpoints["sd3"]).run())
    saved = list(generator(folder, "sd3", checkpoints["sd3"], latents_only=True).run())
    assert all(row.output.suffix == ".safetensors" for row in saved)
    arguments = ["--checkpoint", str(checkpoints["sd3"]), "--steps", "1", "--dtype", "float32", "--device", "cpu"]
    assert run(["decode", str(folder), "-o", str(tmp_path / "later"), *arguments, "-q"]) == 0
    for path in sorted((tmp_path / "later").iterdir()):
        assert same(path, tmp_path / "one")


def test_two_processes_share_the_prompts_and_one_file_of_results(checkpoints, tmp_path):
    prompts = ("a cat", "a dog", "a cow")
    list(generator(tmp_path / "one", "sd3", checkpoints["sd3"], prompts=prompts).run())
    for rank in (1, 0):
        ranks = Ranks(rank=rank, size=2)
        list(generator(tmp_path / "two", "sd3", checkpoints["sd3"], prompts=prompts, ranks=ranks).run())
    assert names(tmp_path / "one") == names(tmp_path / "two")
    for path in (tmp_path / "one").glob("*_step2.png"):
        assert same(path, tmp_path / "two")
    assert [line["prompt"] for line in read_results(tmp_path / "two")] == list(prompts)


def test_what_is_there_is_kept_and_only_the_rest_is_made(checkpoints, tmp_path):
    list(generator(tmp_path, "sd3", checkpoints["sd3"]).run())
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix != ".jsonl"}
    (tmp_path / "0001_a-dog_step2.png").unlink()

    def unused():
        raise AssertionError("the latents are there")

    rows = list(generator(tmp_path, "sd3", checkpoints["sd3"], existing="skip", open_pipeline=unused).run())
    assert [row.output.name for row in rows] == ["0001_a-dog_step2.png"]
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix != ".jsonl"}
    assert {name for name in before if before[name] != after[name]} <= {
        "0001_a-dog_step2.png",
        "0001_a-dog_step2_pair.png",
    }
    assert [line["seconds"] > 0 for line in read_results(tmp_path)] == [True, True]
    with pytest.raises(OutputError, match="--skip-existing"):
        generator(tmp_path, "sd3", checkpoints["sd3"])


def test_what_an_interrupt_left_out_is_made_good(checkpoints, tmp_path):
    list(generator(tmp_path, "sd3", checkpoints["sd3"]).run())
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text(lines[1])
    (tmp_path / "0001_a-dog_step2_pair.png").unlink()
    assert list(generator(tmp_path, "sd3", checkpoints["sd3"], existing="skip").run()) == []
    assert (tmp_path / "0001_a-dog_step2_pair.png").exists()
    again = read_results(tmp_path)
    expected = [json.loads(line) for line in lines]
    assert [{**line, "seconds": 0} for line in again] == [{**line, "seconds": 0} for line in expected]


def test_a_latent_of_another_run_is_not_taken_for_this_ones(checkpoints, tmp_path):
    list(generator(tmp_path, "sd3", checkpoints["sd3"], prompts=("a cat",)).run())
    (tmp_path / "0000_a-cat_step2.png").unlink()
    (row,) = generator(tmp_path, "sd3", checkpoints["sd3"], prompts=("a cat",), existing="skip", seed=4).run()
    assert isinstance(row, Failure)
    assert "seed 3 and not 4" in str(row.error)
    assert not (tmp_path / "0000_a-cat_step2.png").exists()


def test_overwriting_leaves_no_files_of_the_older_run_beside_a_newer_latent(checkpoints, tmp_path):
    list(generator(tmp_path, "sd3", checkpoints["sd3"], prompts=("a cat",)).run())

    def broken():
        raise OutputError("cut off between the stages.")

    stopped = generator(
        tmp_path, "sd3", checkpoints["sd3"], prompts=("a cat",), existing="overwrite", overwrite=True, seed=4
    )
    stopped.open_decoder = broken
    with pytest.raises(OutputError, match="cut off"):
        list(stopped.run())
    assert names(tmp_path) == ["0000_a-cat_step2.safetensors", "0000_a-cat_step2_native.png", "results.jsonl"]
    (row,) = generator(tmp_path, "sd3", checkpoints["sd3"], prompts=("a cat",), existing="skip", seed=4).run()
    assert (row.seed, read_results(tmp_path)[0]["seed"]) == (4, 4)


def test_a_native_picture_that_is_missing_comes_from_the_latent_file(checkpoints, tmp_path):
    list(generator(tmp_path, "sd3", checkpoints["sd3"], prompts=("a cat",)).run())
    native = tmp_path / "0000_a-cat_step2_native.png"
    before = native.read_bytes()
    native.unlink()
    list(generator(tmp_path, "sd3", checkpoints["sd3"], prompts=("a cat",), existing="skip").run())
    assert native.read_bytes() == before


def test_results_that_are_none_of_ours_are_left_alone(checkpoints, tmp_path):
    (tmp_path / "results.jsonl").write_text("hello")
    with pytest.raises(OutputError, match="no list of results of ours"):
        generator(tmp_path, "sd3", checkpoints["sd3"])
    assert (tmp_path / "results.jsonl").read_text() == "hello"


def test_an_adapter_brings_a_generator_outside_diffusers(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rae.py").write_text(
        "import torch\n"
        "def sample(*, prompt, class_id, steps, stops, seed, device):\n"
        "    noise = torch.Generator().manual_seed(seed + class_id)\n"
        "    for stop in stops:\n"
        "        yield stop, torch.randn(1, 768, 32, 32, generator=noise), 1 - stop / (steps + 1)\n"
    )
    given = ["--backbone", "dinov2", "--class-id", "207", "--adapter", "my_rae:sample", "--stop-at", "40", "--final"]
    assert run(["generate", *given, "-o", str(tmp_path / "out"), "--save-latents-only"]) == 0
    assert names(tmp_path / "out") == [
        "class0207_final.safetensors", "class0207_step40.safetensors", "results.jsonl",
    ]  # fmt: skip
    latent = read_latent(tmp_path / "out" / "class0207_step40.safetensors")
    assert (latent.space, round(latent.latent_sigma, 3)) == ("dinov2", 0.216)
    assert run(["generate", *given, "-o", str(tmp_path / "b"), "--adapter", "my_rae:none", "--save-latents-only"]) == 2


def test_a_prompt_that_fails_does_not_end_the_others(checkpoints, tmp_path, monkeypatch):
    encode = type(pipeline("sd3")).encode_prompt

    def fails_on_cats(self, prompt, *rest, **more):
        if "cat" in prompt:
            raise ValueError("no cats today")
        return encode(self, prompt, *rest, **more)

    monkeypatch.setattr(type(pipeline("sd3")), "encode_prompt", fails_on_cats)
    rows = list(generator(tmp_path, "sd3", checkpoints["sd3"]).run())
    assert [isinstance(row, Failure) for row in rows] == [True, False]
    assert rows[0].input == "a cat"
    assert "no cats today" in str(rows[0].error)


def test_an_interrupt_keeps_what_is_finished(checkpoints, tmp_path):
    rows = generator(tmp_path, "sd3", checkpoints["sd3"]).run()
    first = next(rows)
    rows.close()
    assert first.output.exists()
    assert [line["output"] for line in read_results(tmp_path)] == [first.output.name]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2  # so that the next run has less to do


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "sd3"
    save_pipeline(pipeline("sd3"), folder)
    return str(folder)


def test_the_command_generates_from_a_local_pipeline(saved, checkpoints, tmp_path, capsys):
    arguments = ["--backbone", "sd3", "--model", saved, "--checkpoint", str(checkpoints["sd3"]), "--size", "384x256"]
    speed = ["--backbone-steps", "4", "--stop-at", "2", "--final", "--steps", "1", "--json", "--dtype", "float32"]
    assert run(["generate", "--prompt", "a cat", "-o", str(tmp_path / "out"), *arguments, *speed]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["height"], line["width"]) for line in lines] == [(256, 384)] * 2
    assert {"input", "output", "seed", "latent_sigma", "seconds"} <= lines[0].keys()


def test_a_dry_run_says_what_it_would_load_and_makes_nothing(saved, checkpoints, tmp_path, capsys):
    arguments = ["--backbone", "sd3", "--model", saved, "--checkpoint", str(checkpoints["sd3"]), "--dry-run"]
    assert run(["generate", "--prompt", "a cat", "-o", str(tmp_path / "out"), *arguments]) == 0
    said = capsys.readouterr().out
    assert "0000_a-cat_final.png" in said
    assert "0.0 GB to download" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--backbone", "fluks"], 2, "there are flux, flux2"),
        (["--backbone", "flux"], 1, "name a --checkpoint"),
        (["--backbone", "flux", "--checkpoint", "sd3-2k"], 1, "Take one of flux1-2k"),
        (["--backbone", "dinov2", "--class-id", "1"], 2, "package of its own"),
        (["--backbone", "flux2", "--size", "1000x1000"], 1, "nearest that works is 1024x1024"),
        (["--backbone", "flux2", "--stop-at", "51"], 1, "50"),
        (["--backbone", "flux2", "--stop-at", "2"], 1, "0.8"),
        (["--backbone", "flux2", "--steps", "9"], 1, "1 to 4 steps"),
        (["--backbone", "flux2", "--memory-limit", "potato"], 2, "1.5GiB"),
        (["--backbone", "flux2", "--backbone-steps", "0"], 1, "cannot run 0 steps"),
        (["--backbone", "flux2", "--scale", "99"], 1, "0.5 to 16"),
        (["--backbone", "flux2", "--size", "128x128"], 1, "too small"),
        (["--backbone", "flux", "--checkpoint", "flux1-2k"], 1, "latpix checkpoints fetch"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(arguments, code, message, tmp_path, capsys):
    prompt = [] if "--class-id" in arguments else ["--prompt", "a cat"]
    assert run(["generate", *arguments, *prompt, "-o", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
