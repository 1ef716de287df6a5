"""What the README shows is run as it stands, on fewer frames and epochs."""

import re
from pathlib import Path

import pytest

import stforecast as stf

README = Path(__file__).parent.parent / "README.md"


def test_the_forecast_in_eight_lines_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    stf.write_sample("weather", "data/demo/raw/weather", step_hours=12)
    shown: dict[str, object] = {}
    exec(code.replace("epochs=3", "epochs=1"), shown)
    forecast = shown["forecast"]
    assert dict(forecast.sizes) == {"init_time": 1, "lead_time": 8, "lat": 32, "lon": 64}
    assert "persistence" in capsys.readouterr().out
    assert (tmp_path / "t2m.png").stat().st_size > 10_000


def test_every_command_that_it_names_is_there() -> None:
    text = README.read_text()
    verbs = set(re.findall(r"^stforecast (\w+)", text, flags=re.MULTILINE))
    assert verbs == {"sample", "inspect", "prepare", "fit", "predict", "evaluate", "plot"}
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, flags=re.MULTILINE):
        assert f"\n{target}: install" in makefile


def test_every_file_that_it_points_to_is_there() -> None:
    text = README.read_text()
    for name in re.findall(r"(?:docs|data)/[\w/.]+\.(?:md|png)", text):
        if not name.startswith("data/demo"):
            assert (README.parent / name).is_file(), name
