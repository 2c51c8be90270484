"""Which pictures and captions a folder holds."""

import json

import pytest

from latpix.data.sources import Source, captions_of, find_pictures
from latpix.errors import CaptionError, UsageError


def test_folders_are_walked_in_order_without_links_and_hidden_files(tmp_path):
    for name in ("b/2.png", "b/a/1.JPG", "b/notes.txt", "b/.hidden.png", "b/.git/x.png", "c.webp", "elsewhere/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "b/link").symlink_to(tmp_path / "elsewhere")
    found = find_pictures([tmp_path / "b", tmp_path / "c.webp"])
    assert [source.name for source in found] == ["b/2.png", "b/a/1.JPG", "c.webp"]
    with pytest.raises(UsageError, match="does not exist"):
        find_pictures([tmp_path / "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no picture in"):
        find_pictures([tmp_path / "empty"])


def test_captions_come_from_the_manifest_a_text_or_upstreams_json(tmp_path):
    source = Source(name="a", path=tmp_path / "a.png")
    assert captions_of(source) == ()
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "long", "prompt_medium": None, "prompt_short": "short"}))
    assert captions_of(source) == ("long", "short")
    (tmp_path / "a.txt").write_text("\ufeff a cat\n", encoding="utf-8")
    assert captions_of(source) == ("a cat",)
    assert captions_of(Source(name="a", path=source.path, caption="a dog")) == ("a dog",)


@pytest.mark.parametrize("table", ["[]", "{}", '{"prompt": 3}', '{"prompt": "a", "prompt_short": 1}', "not json"])
def test_a_caption_file_that_says_nothing_is_refused(tmp_path, table):
    (tmp_path / "a.json").write_text(table)
    with pytest.raises(CaptionError, match=r"a\.(json|png)"):
        captions_of(Source(name="a", path=tmp_path / "a.png"))
