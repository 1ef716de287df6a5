"""What the README shows is run as it stands, on fewer frames and epochs."""

import re
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from pages import python_of
from test_pretrained import like_the_data_of

import stforecast as stf
from stforecast.cli import app
from stforecast.pretrained import packaged_model

README = Path(__file__).parent.parent / "README.md"
CODE = python_of(README)


def test_the_forecast_in_eight_lines_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    code, _ = CODE
    monkeypatch.chdir(tmp_path)
    stf.write_sample("weather", "data/demo/raw/weather", step_hours=24)
    shown: dict[str, object] = {}
    # A smaller network learns for an epoch, from a frame a day: four of them are four days.
    smaller = {"epochs=3": "epochs=1", "_spatial=16": "_spatial=4", "_temporal=64": "_temporal=8", "06-02": "06-04"}
    for shown_there, instead in smaller.items():
        assert shown_there in code
        code = code.replace(shown_there, instead)
    exec(code, shown)
    forecast = shown["forecast"]
    assert dict(forecast.sizes) == {"init_time": 1, "lead_time": 8, "lat": 32, "lon": 64}
    assert "persistence" in capsys.readouterr().out
    assert (tmp_path / "t2m.png").stat().st_size > 10_000


def test_the_forecast_with_a_packaged_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    # xarray fetches its tutorial data from the network; these have the same labels.
    dataset = like_the_data_of(packaged_model("north-america-air"))
    monkeypatch.setattr(xr.tutorial, "open_dataset", {"air_temperature": dataset}.__getitem__)
    shown: dict[str, Any] = {}
    _, code = CODE
    exec(code, shown)
    assert dict(shown["forecast"].sizes) == {"init_time": 1, "lead_time": 12, "lat": 25, "lon": 53}
    assert (shown["forecast"]["air_lower"] <= shown["forecast"]["air_upper"]).all()


def test_every_command_that_it_names_is_there() -> None:
    text = README.read_text()
    verbs = set(re.findall(r"^stforecast (\w+)", text, flags=re.MULTILINE))
    assert {"sample", "prepare", "fit", "predict", "evaluate", "plot", "run", "status", "schedule"} <= verbs
    assert verbs <= {command.callback.__name__ for command in app.registered_commands}
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, flags=re.MULTILINE):
        assert f"\n{target}: install" in makefile


def test_every_file_that_it_points_to_is_there() -> None:
    text = README.read_text()
    for name in re.findall(r"(?:docs|data)/[\w/.-]+\.(?:md|png)", text):
        if not name.startswith("data/demo"):
            assert (README.parent / name).is_file(), name
