"""``latpix quantize``: a table of what each layer lost, and a file that decodes."""

import json

from small_decoder import write_latent


def test_the_file_decodes_and_the_table_has_every_layer(latpix, small):
    answer = latpix("quantize", small, "-o", "int8.safetensors")
    assert (answer.code, answer.out) == (0, "int8.safetensors\n")
    assert "patch_blocks.0.image.qkv" in answer.err
    assert "floor 28" in answer.err
    write_latent("cat.safetensors")
    made = latpix("decode", "cat.safetensors", "-o", "cat.png", "--checkpoint", "int8.safetensors", "--steps", 1)
    assert made.code == 0, made.err
    (facts,) = latpix("checkpoints", "show", "int8.safetensors", "--json").lines
    assert facts["quantized"] == ["int8"]
    (checked,) = latpix("checkpoints", "check", "int8.safetensors", "--json").lines
    assert checked["fits"] == ["small"]


def test_json_has_each_layers_ratio(latpix, small):
    (found,) = latpix("quantize", small, "-o", "fp8.safetensors", "--to", "fp8", "--json").lines
    assert (found["kind"], found["output"]) == ("fp8", "fp8.safetensors")
    assert all(28 < layer["snr_db"] < 36 for layer in found["layers"])
    json.dumps(found)


def test_an_output_that_exists_stays(latpix, small):
    assert latpix("quantize", small, "-o", "out.safetensors").code == 0
    answer = latpix("quantize", small, "-o", "out.safetensors")
    assert answer.code == 1
    assert "exists already" in answer.err
    assert latpix("quantize", small, "-o", "out.safetensors", "--overwrite").code == 0
