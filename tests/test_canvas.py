import os

import pytest
import torch

from latpix.canvas import Canvas


def test_a_canvas_in_a_file_holds_what_one_in_memory_does(tmp_path):
    both = [Canvas(7, 9), Canvas(7, 9, folder=tmp_path)]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(1, 3, 4, 5, generator=generator)
    for canvas in both:
        assert not canvas.whole().any()
        canvas.write(slice(1, 5), slice(2, 7), drawn)
        canvas.add(slice(3, 7), slice(4, 9), drawn)
    memory, file = both
    assert torch.equal(memory.whole(), file.whole())
    assert torch.equal(memory.read(slice(2, 4), slice(0, 9)), file.read(slice(2, 4), slice(0, 9)))
    file.clear()
    assert not file.whole().any()
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [7 * 9 * 12]


def test_a_part_read_from_a_file_stays_as_it_was(tmp_path):
    canvas = Canvas(4, 4, folder=tmp_path)
    part = canvas.read(slice(0, 2), slice(0, 2))
    canvas.write(slice(0, 4), slice(0, 4), torch.ones(1, 3, 4, 4))
    assert not part.any()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve a file's room")
def test_a_canvas_has_its_room_on_the_disk_before_it_is_written_to(tmp_path):
    canvas = Canvas(64, 64, folder=tmp_path)
    canvas.clear()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_blocks * 512 >= 64 * 64 * 12
    file.unlink()
