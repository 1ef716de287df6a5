"""The operator's page is complete: every key, every exit status, and commands that are there."""

import inspect
import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stforecast.cli import app
from stforecast.errors import ErrorKind
from stforecast.operations.journal import DEGRADED
from stforecast.operations.monitoring import write_metrics
from stforecast.operations.pipeline import Checks, Input, Maps, Monitor, Pipeline, Retrain, Rung, Scores, read_pipelines

PAGE = Path(__file__).parent.parent / "docs" / "operations.md"
TEXT = PAGE.read_text()
SECTIONS: dict[str, type[BaseModel]] = {
    "": Pipeline,
    "input.": Input,
    "fallback[].": Rung,
    "checks.": Checks,
    "maps.": Maps,
    "scores.": Scores,
    "retrain.": Retrain,
    "monitor.": Monitor,
}


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What the attributes of a class are, as its docstring says."""
    described = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", described, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def show(default: Any) -> str:
    """A default as YAML has it."""
    if default is PydanticUndefined:
        return "wanted"
    if isinstance(default, timedelta):
        for unit, seconds in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
            if default.total_seconds() % seconds == 0 and default:
                return f"`{int(default.total_seconds()) // seconds}{unit}`"
        return "`0s`"
    if isinstance(default, BaseModel):
        return "as below"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "none" if default is None else f"`{default}`"


def rows_of(prefix: str, model: type[BaseModel]) -> list[str]:
    """The rows that the page is to have of a section's keys."""
    told = meanings(model)
    return [
        f"| `{prefix}{name}` | {show(field.default)} | {told[name]} |" for name, field in model.model_fields.items()
    ]


@pytest.mark.parametrize("prefix", SECTIONS)
def test_every_key_has_its_row(prefix: str) -> None:
    rows = rows_of(prefix, SECTIONS[prefix])
    assert set(rows) <= set(TEXT.splitlines()), "the page wants:\n" + "\n".join(rows)


def test_no_row_is_of_a_key_that_is_none() -> None:
    keys = TEXT.partition("## The YAML")[2].partition("\n## ")[0]
    wanted = [row for prefix, model in SECTIONS.items() for row in rows_of(prefix, model)]
    assert [line for line in keys.splitlines() if line.startswith("| `")] == wanted


def test_the_first_pipeline_is_one(tmp_path: Path) -> None:
    (tmp_path / "weather.yaml").write_text(re.findall(r"^```yaml\n(name.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)[0])
    (pipeline,) = read_pipelines(tmp_path / "weather.yaml")
    assert [rung.label for rung in pipeline.fallback] == ["model", "persistence"]


def test_every_exit_status_is_told_and_kinds_stand_in_the_row_of_theirs() -> None:
    table = TEXT.partition("## Exit statuses")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", table, flags=re.MULTILINE))
    interrupted = {130, 143}
    assert set(map(int, rows)) == {kind.exit_status for kind in ErrorKind} | {0, DEGRADED, 1} | interrupted
    named = {int(status): set(re.findall(r"\b[A-Z]{2,}_?[A-Z_]*\b", text)) for status, text in rows.items()}
    for status, kinds in named.items():
        for kind in kinds & set(ErrorKind):
            assert ErrorKind(kind).exit_status in ({status} if status not in interrupted else interrupted), kind
    # Those of scheduled runs are all there.
    of_runs = {
        "INPUT_LATE",
        "INPUT_STALE",
        "INPUT_INCOMPLETE",
        "OUTPUT_INVALID",
        "RUN_ACTIVE",
        "STALE_OUTPUT",
        "TIMEOUT",
    }
    assert of_runs <= set().union(*named.values())


def test_kinds_that_the_page_names_are_kinds() -> None:
    named = set(re.findall(r"\b[A-Z]+_[A-Z_]*[A-Z]\b", TEXT)) - {"STFORECAST_COMMAND", "STFORECAST_DATA"}
    assert named <= set(ErrorKind)


def test_every_command_that_the_page_shows_is_there() -> None:
    group: Any = typer.main.get_command(app)
    code = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE))
    shown = re.findall(r"^(?:\$ )?stforecast (.*)$", code, flags=re.MULTILINE)
    shown += re.findall(r"`stforecast ((?:run|status|schedule|retrain|inspect|validate) [^`]+)`", TEXT)
    assert len(shown) > 20
    for command in shown:
        verb, *words = shlex.split(command, comments=True)
        group.commands[verb].make_context(verb, [word.replace("…", "") for word in words])


def test_every_metric_is_told() -> None:
    metrics = re.findall(r"^(stforecast_\w+(?:\{[^}]*\})?) ", inspect.getdoc(write_metrics) or "", re.MULTILINE)
    assert len(metrics) > 10
    for metric in metrics:
        assert f"`{metric}`" in TEXT, metric
