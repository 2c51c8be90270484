"""Goldens of schedules and of upstream's registry: every value counts, other sizes run, what cannot run is said."""

import json
from pathlib import Path

import pytest

from latpix.doctor import goldens_schedules
from latpix.doctor.goldens_backbones import run

COMMITTED = Path(__file__).parents[1] / "golden" / "backbones"


def changed(folder, family, edit):
    """Rows of one family, of which something was changed."""
    described = json.loads((COMMITTED / f"{family}.json").read_text())
    edit(described)
    (folder / f"{family}.json").write_text(json.dumps(described))
    return list(run(folder))


def failed(rows):
    return [row.case.removeprefix("backbones/") for row in rows if not row.ok]


SHIFTED = ("flux", "flux2", "qwenimage")  # by a mu of their own
PARTS = ("sigmas", "timesteps", "latent_sigma", "step_index")


@pytest.mark.parametrize(
    ("backbone", "part"),
    [*((one, part) for one in (*SHIFTED, "sd3", "zimage-turbo") for part in PARTS), *((one, "mu") for one in SHIFTED)],
)
def test_a_wrong_value_of_a_schedule_fails_its_row(tmp_path, backbone, part):
    described = json.loads((COMMITTED / "schedules.json").read_text())
    number = next(k for k, row in enumerate(described["rows"]) if row["backbone"] == backbone)

    def spoil(described):
        row = described["rows"][number]
        if part in ("sigmas", "timesteps"):
            row[part][2] *= 1 + 1e-5
        else:
            (row if part == "mu" else row["capture"])[part] += 1

    rows = changed(tmp_path, "schedules", spoil)
    assert len(rows) == len(described["rows"])
    assert failed(rows) == [f"schedules.{backbone}.512x512.{described['rows'][number]['steps']}"]


def test_another_schedule_runs_unchanged(tmp_path):
    steps, shift = 7, 5.0
    plain = [1 - k / steps for k in range(steps)]
    sigmas = [shift * s / (1 + (shift - 1) * s) for s in plain]
    row = {"backbone": "zimage", "steps": steps, "ldm_height": 48, "ldm_width": 80, "scheduler": {"shift": shift}}
    row |= {"sigmas": [*sigmas, 0.0], "timesteps": [1000 * s for s in sigmas]}
    (tmp_path / "schedules.json").write_text(json.dumps({"rows": [row]}))
    (found,) = run(tmp_path)
    assert (found.case, found.ok) == ("backbones/schedules.zimage.80x48.7", True)


WRONG = {
    "hub_repo": lambda d: d.update(hub_repo="someone/else"),
    "pipelines.flux": lambda d: d["pipelines"]["flux"].update(steps=27),
    "pipelines.qwenimage": lambda d: d["pipelines"]["qwenimage"]["extra"].update(true_cfg_scale=3.0),
    "pipelines.zimage-turbo": lambda d: d["pipelines"]["zimage-turbo"].update(recommended_latent=7),
    "pipelines.sd3": lambda d: d["pipelines"]["sd3"].update(suggested_capture_steps=[24]),
    "pipelines.flux9": lambda d: d["pipelines"].update(flux9=d["pipelines"]["flux"]),
    "vae_files.sdxl": lambda d: d["vae_files"].update(sdxl="checkpoints/other.safetensors"),
    "vae_files.siglip": lambda d: d["vae_files"]["siglip"].pop("decoder_config"),
    "checkpoints.dinov2.2k": lambda d: d["checkpoints"][0].update(file="checkpoints/other.pth"),
    "checkpoints.flux.2k": lambda d: d["checkpoints"][1].update(scale=8),
    "checkpoints.flux.2kto4k_v1pt5": lambda d: d["checkpoints"][2].update(alias_of="sd3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_of_the_registry_fails_its_case(tmp_path, case):
    assert failed(changed(tmp_path, "registry", WRONG[case])) == [f"registry.{case}"]


def test_a_backbone_without_a_schedule_is_skipped_with_a_line(tmp_path, capsys):
    rows = changed(tmp_path, "schedules", lambda d: d["rows"][0].update(backbone="flux9"))
    assert failed(rows) == []
    assert "skipped" in capsys.readouterr().err


def test_without_diffusers_schedules_are_skipped_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(goldens_schedules, "find_spec", lambda _name: None)
    cases = [row.case for row in run(COMMITTED)]
    assert not [case for case in cases if "schedules" in case or "timesteps" in case]
    assert "backbones/registry.hub_repo" in cases
    assert 'pip install "latpix[backbones]"' in capsys.readouterr().err
