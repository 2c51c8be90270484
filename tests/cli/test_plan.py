"""``latpix plan``: what is told, to people and to programs."""

import pytest

SMALLEST = ("plan", "--size", "512x256", "--checkpoint", "flux2-tiny", "--device", "cpu", "--dtype", "float32")


def test_a_plan_in_json_has_the_interfaces_keys_and_pulls_no_lever_unasked(latpix):
    answer = latpix(*SMALLEST, "--json")
    assert (answer.code, answer.err) == (0, "")
    (plan,) = answer.lines
    assert {"height", "width", "peak_bytes", "seconds", "levers", "tiles"} <= set(plan)
    assert (plan["height"], plan["width"], plan["levers"], plan["tiles"]) == (256, 512, [], 1)


def test_a_latents_size_is_asked_for_in_cells(latpix):
    (plan,) = latpix("plan", "--latent-size", "12x8", "--json").lines
    assert (plan["height"], plan["width"]) == (512, 768)


def test_a_limit_pulls_levers_and_the_plan_keeps_to_it(latpix):
    words = ("plan", "--size", "4096x4096", "--device", "cpu", "--json")
    (free,) = latpix(*words).lines
    limit = free["peak_bytes"] * 2 // 3
    (tight,) = latpix(*words, "--memory-limit", limit).lines
    assert tight["levers"]
    assert tight["peak_bytes"] <= limit


def test_people_read_memory_time_and_each_lever_with_its_cost(latpix):
    free = latpix("plan", "--size", "4096x4096", "--json").lines[0]["peak_bytes"]
    answer = latpix("plan", "--size", "4096x4096", "--batch", 4, "--memory-limit", int(0.6 * free))
    assert answer.code == 0
    assert "4 pictures of 4096x4096 by flux2-tiny" in answer.out
    assert "MiB at most, the whole process" in answer.out
    assert "lever   one picture at a time (the same pictures)" in answer.out
    assert "operations" in answer.out


def test_what_fits_nowhere_is_refused_with_the_smallest_budget_that_would_do(latpix):
    answer = latpix("plan", "--size", "512x512", "--memory-limit", "10MB")
    assert answer.code == 1
    least = answer.err.split("fits into is ")[1].split(" MiB")[0]
    assert latpix("plan", "--size", "512x512", "--memory-limit", f"{int(least) + 8}MiB").code == 0


@pytest.mark.parametrize("words", [(), ("--size", "512x512", "--latent-size", "8x8")])
def test_one_size_is_asked_for(latpix, words):
    answer = latpix("plan", *words)
    assert answer.code == 2
    assert "--latent-size" in answer.err
