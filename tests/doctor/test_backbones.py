"""What doctor says of each backbone."""

from latpix.backbones.registry import BACKBONES
from latpix.checkpoints.load import stored
from latpix.checkpoints.registry import find
from latpix.doctor.backbones import backbone_needs


def test_every_backbone_has_its_needs_and_the_commands_that_mend_them():
    needs = backbone_needs()
    assert list(needs) == list(BACKBONES)
    flux = {need.what: need for need in needs["flux"]}
    assert flux["pipeline black-forest-labs/FLUX.1-dev"].mend == "hf download black-forest-labs/FLUX.1-dev"
    assert flux["checkpoint flux1-2k"].mend == "latpix checkpoints fetch flux1-2k"
    assert not flux["checkpoint flux1-2k"].here


def test_the_shipped_decoder_of_flux2_needs_no_captions():
    said = {need.what: need.here for need in backbone_needs()["flux2"]}
    assert said["checkpoint flux2-tiny"]
    assert not any(what.startswith("captions") for what in said)


def test_what_was_fetched_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("LATPIX_HOME", str(tmp_path))
    path = stored(find("sdxl-2kto4k"))
    path.parent.mkdir(parents=True)
    path.touch()
    said = {need.what: need.here for need in backbone_needs()["sdxl"]}
    assert said["checkpoint sdxl-2kto4k"]
