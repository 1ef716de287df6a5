from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from scheduled import SETTINGS

from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.pipeline import Rung, read_pipelines


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(SETTINGS | changes))
    return file


def test_paths_are_those_of_the_file_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir("/")
    (pipeline,) = read_pipelines(written(tmp_path, fallback=[{"model": "model", "store": "other.zarr"}]))
    assert pipeline.store == tmp_path / "t2m.zarr"
    assert pipeline.output == tmp_path / "forecasts"
    assert pipeline.input.path == str(tmp_path / "incoming")
    assert pipeline.model == str(tmp_path / "model")
    assert pipeline.fallback == (Rung(model=str(tmp_path / "model"), store=tmp_path / "other.zarr"),)
    (elsewhere,) = read_pipelines(
        written(tmp_path, input={"path": "gs://bucket/t2m.zarr"}, model="north-america-air", output="/srv/out")
    )
    assert (elsewhere.input.path, elsewhere.model) == ("gs://bucket/t2m.zarr", "north-america-air")
    assert elsewhere.output == Path("/srv/out")


def test_a_matrix_is_several_pipelines(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        name="traffic",
        output="forecasts/{city}/{kind}",
        input={"path": "incoming/{code}"},
        matrix={"city": [{"city": "bonn", "code": "bn"}, {"city": "ulm", "code": "ul"}], "kind": ["taxi", "bike"]},
    )
    pipelines = read_pipelines(file)
    assert [one.name for one in pipelines] == [
        "traffic-bonn-bn-taxi",
        "traffic-bonn-bn-bike",
        "traffic-ulm-ul-taxi",
        "traffic-ulm-ul-bike",
    ]
    assert [one.output.relative_to(tmp_path) for one in pipelines[:2]] == [
        Path("forecasts/bonn/taxi"),
        Path("forecasts/bonn/bike"),
    ]
    assert pipelines[2].input.path.endswith("incoming/ul")


@pytest.mark.parametrize(
    ("changes", "fault", "kind"),
    [
        ({"horizn": 3}, "unknown key horizn; the nearest is horizon", ErrorKind.CONFIG_UNKNOWN_KEY),
        ({"checks": {"jmp": 3}}, r"unknown key checks\.jmp; the nearest is checks\.jump", ErrorKind.CONFIG_UNKNOWN_KEY),
        ({"name": "../tiny"}, "name: wanted at most 64 lower-case letters", ErrorKind.ARGUMENT),
        ({"cycle": "7h"}, "cycle: wanted whole minutes that divide a day, or whole days", ErrorKind.ARGUMENT),
        ({"cycle": "30s"}, "cycle: wanted whole minutes that divide a day", ErrorKind.ARGUMENT),
        ({"interval": 1.5}, "interval: Input should be less than 1", ErrorKind.ARGUMENT),
        ({"input": {"path": "in", "source": "csv"}}, r"input\.source: wanted one of taxibj", ErrorKind.ARGUMENT),
        ({"input": {"path": "in", "time_zone": "Mars/Base"}}, r"unknown time zone 'Mars/Base'", ErrorKind.ARGUMENT),
        (
            {"input": {"path": "in", "source": "cf", "time_zone": "Asia/Shanghai"}},
            r"source 'cf' has no use for time_zone='Asia/Shanghai'; leave it out",
            ErrorKind.ARGUMENT,
        ),
        (
            {"input": {"path": "in", "source": "taxibj", "bounds": [41, 39, 116, 117]}},
            r"bounds are \(south, north, west, east\)",
            ErrorKind.ARGUMENT,
        ),
        ({"fallback": [{}]}, "a rung wants a model, a baseline, or within", ErrorKind.ARGUMENT),
        ({"fallback": [{"model": "m", "baseline": "persistence"}]}, "a model or a baseline", ErrorKind.ARGUMENT),
        ({"fallback": [{"baseline": "persistance"}]}, r"unknown reference\(s\) persistance", ErrorKind.ARGUMENT),
        ({"monitor": {"webhook": "ftp://x"}}, r"monitor\.webhook: String should match", ErrorKind.ARGUMENT),
        ({"output": "out/{city}"}, r"\{city\} in 'out/\{city\}' is not in the matrix \(none\)", ErrorKind.ARGUMENT),
        ({"matrix": ["bonn"]}, "matrix wants lists by name, such as city", ErrorKind.ARGUMENT),
        (
            {"matrix": {"city": [{"town": "bonn"}]}},
            r"each entry of matrix\.city wants the key city",
            ErrorKind.ARGUMENT,
        ),
        ({"matrix": {"city": ["bonn", "ulm"]}}, "several pipelines of the matrix have the output", ErrorKind.ARGUMENT),
        (
            {"matrix": {"city": ["bonn", "ulm"]}, "output": "{city}", "monitor": {"prometheus": "runs.prom"}},
            r"several pipelines of the matrix have the monitor\.prometheus",
            ErrorKind.ARGUMENT,
        ),
    ],
)
def test_k03_what_is_wrong_with_a_pipeline_is_said_with_its_key(
    tmp_path: Path, changes: dict[str, Any], fault: str, kind: ErrorKind
) -> None:
    with pytest.raises(StforecastError, match=fault) as caught:
        read_pipelines(written(tmp_path, **changes))
    assert caught.value.kind == kind
    assert caught.value.kind.exit_status == 2


@pytest.mark.parametrize("cycle", ["0 */6 * * *", "@daily", "06:00 Europe/Berlin", "6h UTC", "00:00,06:00"])
def test_n05_a_cycle_is_a_length_and_no_schedule_on_any_clock(tmp_path: Path, cycle: str) -> None:
    with pytest.raises(StforecastError, match="Cron text, times of day and time zones are no cycle") as caught:
        read_pipelines(written(tmp_path, cycle=cycle))
    assert caught.value.kind == ErrorKind.ARGUMENT


@pytest.mark.parametrize(("cycle", "minutes"), [("6h", 360), ("1h 30m", 90), ("1d", 1440), ("5 min", 5), ("2d", 2880)])
def test_a_cycle_divides_a_day_or_is_whole_days(tmp_path: Path, cycle: str, minutes: int) -> None:
    (pipeline,) = read_pipelines(written(tmp_path, cycle=cycle))
    assert pipeline.cycle == timedelta(minutes=minutes)


TOKEN = "T0KEN"  # what lets one in is often part of the path


@pytest.mark.parametrize(
    "text",
    [
        yaml.safe_dump(SETTINGS | {"monitor": {"webhook": f"htps://hooks.example/{TOKEN}"}}),
        yaml.safe_dump(SETTINGS | {"monitor": {"webhook": [f"https://hooks.example/{TOKEN}"]}}),
        yaml.safe_dump(SETTINGS | {"monitor": f"hooks.example/{TOKEN}"}),
        yaml.safe_dump(SETTINGS | {"monitor": {"webhook": f"https://hooks.example/{TOKEN}/{{city}}"}}),
        f"name: tiny\nmonitor:\n  webhook: 'https://hooks.example/{TOKEN}\n",
        f"name: tiny\nmonitor:\n  webhook: !!python/name:os https://hooks.example/{TOKEN}\n",
    ],
)
def test_k14_what_is_wrong_with_a_webhook_is_said_without_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "pipeline.yaml").write_text(text)
    with pytest.raises(StforecastError) as caught:
        read_pipelines(tmp_path / "pipeline.yaml")
    assert caught.value.kind.exit_status == 2
    assert TOKEN not in str(caught.value)


def test_k14_what_a_pipeline_shows_of_itself_has_no_webhook(tmp_path: Path) -> None:
    (pipeline,) = read_pipelines(written(tmp_path, monitor={"webhook": f"https://hooks.example/{TOKEN}"}))
    assert pipeline.monitor.webhook == f"https://hooks.example/{TOKEN}"
    assert TOKEN not in repr(pipeline) + str(pipeline) + repr(pipeline.monitor)


def test_defaults_promise_nothing_that_was_not_asked_for(tmp_path: Path) -> None:
    (pipeline,) = read_pipelines(written(tmp_path))
    assert pipeline.fallback == ()
    assert (pipeline.monitor.prometheus, pipeline.monitor.webhook, pipeline.retrain) == (None, None, None)
    assert (pipeline.retention, pipeline.deadline, pipeline.threads) == (None, timedelta(0), 1)
