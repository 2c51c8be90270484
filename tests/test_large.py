"""A picture far larger than what the process may hold."""

import os
import subprocess
import sys

import pytest
from PIL import Image

SCRIPT = """
import resource, sys, torch
from latpix import Decoder
decoder = Decoder.load("flux2-tiny", device="cpu")
latent = 0.8 * torch.randn(1, 128, 128, 128, generator=torch.Generator().manual_seed(0))
decoder.decode_to_tiff(latent, sys.argv[1], steps=1, memory_limit="2GiB")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_8192_pixels_a_side_are_painted_within_two_gibibytes_of_process_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "large.tiff"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert int(done.stdout) * 1024 <= 2 * 2**30
    with Image.open(tmp_path / "large.tiff") as picture:
        assert picture.size == (8192, 8192)
    assert [path.name for path in tmp_path.iterdir()] == ["large.tiff"]
