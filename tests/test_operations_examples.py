"""The pipelines and schedulers that come as examples are right, as far as that can be told without running them."""

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from stforecast.cli import app
from stforecast.errors import ErrorKind
from stforecast.operations.journal import DEGRADED
from stforecast.operations.pipeline import Pipeline, read_pipelines

ROOT = Path(__file__).parent.parent
PIPELINES, SCHEDULERS = ROOT / "pipelines", ROOT / "pipelines" / "schedulers"
ACTIVE, LATER = ErrorKind.RUN_ACTIVE.exit_status, ErrorKind.INPUT_LATE.exit_status
UNITS = sorted(file.name for file in SCHEDULERS.glob("*.service"))


def keys_of(model: type[BaseModel]) -> set[str]:
    """All keys of settings and of the sections in them."""
    keys = set(model.model_fields)
    for field in model.model_fields.values():
        annotations = [field.annotation]
        while annotations:
            annotation = annotations.pop()
            annotations.extend(get_args(annotation))
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                keys |= keys_of(annotation)
    return keys


def uncommented(text: str) -> str:
    """Settings with all that is given as an example."""
    known = "|".join(keys_of(Pipeline) | {"matrix", "city"})
    return re.sub(rf"^(\s*)# (\s*(?:- )?(?:{known}): ?)", r"\1\2", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["weather", "traffic"])
def test_the_pipelines_are_read(name: str) -> None:
    (pipeline,) = read_pipelines(PIPELINES / f"{name}.yaml")
    assert pipeline.name == name
    assert pipeline.store.is_relative_to(ROOT / "data" / "operate")


def test_the_pipeline_of_the_weather_shows_every_key(tmp_path: Path) -> None:
    text = uncommented((PIPELINES / "weather.yaml").read_text())

    def keys_in(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inside in value.items():
                yield key
                yield from keys_in(inside)
        elif isinstance(value, list):
            for inside in value:
                yield from keys_in(inside)

    assert set(keys_in(yaml.safe_load(text))) == keys_of(Pipeline)
    (tmp_path / "all.yaml").write_text(text)
    (pipeline,) = read_pipelines(tmp_path / "all.yaml")
    assert pipeline.retrain is not None


def test_the_pipeline_of_a_city_is_one_of_several_cities_when_its_comments_say_so(tmp_path: Path) -> None:
    text = uncommented((PIPELINES / "traffic.yaml").read_text()).replace("operate/traffic", "operate/{city}")
    (tmp_path / "cities.yaml").write_text(text)
    assert [one.name for one in read_pipelines(tmp_path / "cities.yaml")] == ["traffic-bonn", "traffic-ulm"]


def commands_in(file: Path) -> list[list[str]]:
    """The words behind `stforecast` of each command that an example gives."""
    text = file.read_text()
    if file.suffix == ".py":
        lists = [node.elts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.List)]
        words = [[one.value if isinstance(one, ast.Constant) else "weather.yaml" for one in some] for some in lists]
        return [some[some.index("run") :] for some in words if "run" in some]
    lines = [line for line in text.splitlines() if not line.startswith("#") and "/stforecast " in line]
    found = [re.split(r"[<>;&|]", line.partition("/stforecast ")[2])[0] for line in lines]
    return [shlex.split(words.replace("%i", "weather")) for words in found]


@pytest.mark.parametrize("file", sorted(SCHEDULERS.iterdir()), ids=lambda file: file.name)
def test_each_example_calls_the_command_as_it_is(file: Path) -> None:
    group: Any = typer.main.get_command(app)
    commands = commands_in(file)
    assert commands or file.suffix == ".timer"
    for verb, *words in commands:
        # Parses options and arguments, and calls nothing.
        group.commands[verb].make_context(verb, list(words))
        for word in words:
            assert not word.endswith(".yaml") or (ROOT / word).is_file() or (PIPELINES / word).is_file()


@pytest.mark.parametrize("name", ["prefect_flow.py", "airflow_dag.py"])
def test_flows_know_what_exit_statuses_mean(name: str) -> None:
    tree = ast.parse((SCHEDULERS / name).read_text(), filename=name)
    compile(tree, name, "exec")
    given = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "(DEGRADED, ACTIVE, LATER)"
    )
    assert ast.literal_eval(given.value) == (DEGRADED, ACTIVE, LATER)


def test_cron_and_systemd_know_what_exit_statuses_mean() -> None:
    lines = [line for line in (SCHEDULERS / "crontab").read_text().splitlines() if re.match(r"[*\d]", line)]
    assert len(lines) == 2
    for line in lines:
        assert f"0|{DEGRADED}|{ACTIVE}|{LATER})" in line
        assert f"--conflict-exit-code {ACTIVE}" in line
        # To cron it is the end of the line.
        assert "%" not in line
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in line.split()[:5])
    service = (SCHEDULERS / "stforecast@.service").read_text()
    assert f"\nSuccessExitStatus={DEGRADED} {ACTIVE}\n" in service
    assert f"\nRestartForceExitStatus={LATER}\n" in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, unit: str) -> None:
    # It looks for the command, which is somewhere else here.
    command = tmp_path / "stforecast"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for file in SCHEDULERS.glob("stforecast*"):
        text = file.read_text().replace("/srv/stforecast/.venv/bin/stforecast", str(command))
        (tmp_path / file.name.replace("@.", "@weather.")).write_text(text)
    units = [str(tmp_path / name.replace("@.", "@weather.")) for name in (unit, unit.replace(".service", ".timer"))]
    check = ["systemd-analyze", "verify", "--man=no", *[one for one in units if Path(one).exists()]]
    done = subprocess.run(check, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_the_timer_fires_each_half_hour_of_utc() -> None:
    (said,) = re.findall(r"OnCalendar=(.*)", (SCHEDULERS / "stforecast@.timer").read_text())
    check = ["systemd-analyze", "calendar", "--iterations=3", "--base-time=2026-03-29 00:50:00 UTC", said]
    out = subprocess.run(check, capture_output=True, text=True, check=True, env={"TZ": "Europe/Berlin"}).stdout
    utc = re.findall(r"\(in UTC\): \w+ [\d-]+ (\d\d:\d\d:\d\d)", out)
    assert utc == ["01:00:00", "01:30:00", "02:00:00"]
