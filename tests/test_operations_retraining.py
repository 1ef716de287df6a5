"""A model is fitted anew on what came, and used only if it is better."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scheduled import HORIZON, PREPARED, SERIES, SMALL, TIMES, clock_of, deliver, make_pipeline
from test_cli import run as run_command

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import link_to
from stforecast.grid import Grid
from stforecast.operations.archive import Archive
from stforecast.operations.pipeline import Pipeline, present_model
from stforecast.operations.retraining import RETRAINS, is_due, retrain
from stforecast.operations.running import run
from stforecast.store.versions import lock, remember

NEXT = PREPARED
SETTINGS: dict[str, Any] = {"every": "30d", "preset": "weather", "recent": "6d", "validation": "6d", "epochs": 1}


def make(folder: Path, **changes: Any) -> Pipeline:
    return make_pipeline(folder, retrain=SETTINGS | {"history": 3} | changes)


def rmse(model: str, pipeline: Pipeline, first: int, last: int) -> float:
    """The error of a model's forecasts whose valid times lie in some rows of the series, over all leads and cells."""
    rows = np.arange(first - 1, last - HORIZON + 1)
    store = stf.open_store(pipeline.store)
    forecast = stf.predict(store, stf.Forecaster.load(model), init_times=TIMES[rows])["t2m"].to_numpy()
    squares = np.square(forecast - SERIES["t2m"].to_numpy()[rows[:, None] + np.arange(1, HORIZON + 1)])
    area = np.broadcast_to(Grid.of(SERIES).cell_area().to_numpy()[:, None], squares.shape)
    return float(np.sqrt(np.average(squares, weights=area)))


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Any]:
    pipeline = make(tmp_path_factory.mktemp("retrained"))
    return pipeline, retrain(pipeline)


def test_a_better_model_is_taken_and_recorded(retrained: tuple[Pipeline, Any]) -> None:
    pipeline, done = retrained
    assert done.status == "published"
    assert "the new model is in use" in done.message
    (file,) = (pipeline.output / RETRAINS).glob("*.json")
    record = json.loads(file.read_text())
    assert record == done.record
    assert file.stem == "20160209T1800"
    # The last six days are held out, and the six before choose the weights.
    assert record["periods"] == {
        "train": ["2016-01-01T00:00", "2016-01-28T18:00"],
        "validation": ["2016-01-29T00:00", "2016-02-03T18:00"],
        "test": ["2016-02-04T00:00", "2016-02-09T18:00"],
    }
    assert present_model(pipeline) == str(pipeline.output / ".models" / "20160209T1800")
    fitted = stf.Forecaster.load(present_model(pipeline))
    assert record["candidate"]["model"] == fitted.weights_hash()
    assert record["present"]["model"] == stf.Forecaster.load(pipeline.model).weights_hash()
    assert (fitted.horizon, fitted.history) == (HORIZON, 3)
    assert fitted.calibration is not None
    assert record["candidate"]["rmse"] < record["present"]["rmse"]
    assert record["init_times"] == 24 - HORIZON + 1
    assert not (pipeline.output / ".retraining").exists()


def test_both_scores_are_errors_of_the_held_out_frames_in_standard_deviations(retrained: tuple[Pipeline, Any]) -> None:
    pipeline, done = retrained
    errors = {
        "candidate": rmse(present_model(pipeline), pipeline, NEXT - 24, NEXT - 1),
        "present": rmse(pipeline.model, pipeline, NEXT - 24, NEXT - 1),
    }
    ratio = done.record["candidate"]["rmse"] / done.record["present"]["rmse"]
    assert ratio == pytest.approx(errors["candidate"] / errors["present"], rel=1e-5)
    spread = float(SERIES["t2m"][: NEXT - 48].std())
    assert done.record["present"]["rmse"] == pytest.approx(errors["present"] / spread, rel=0.05)


def test_as_many_models_are_kept_as_one_may_go_back_to(tmp_path: Path) -> None:
    pipeline = make(tmp_path)
    models = pipeline.output / ".models"
    names = [f"201501{day:02}T0000" for day in range(1, 12)]
    for name in names:
        (models / name).mkdir(parents=True)
    assert retrain(pipeline).status == "published"
    assert sorted(model.name for model in models.iterdir()) == [*names[2:], "20160209T1800"]


def test_the_same_again_is_no_better_and_the_present_model_stays(retrained: tuple[Pipeline, Any]) -> None:
    pipeline, _ = retrained
    before = present_model(pipeline)
    done = retrain(pipeline)
    assert done.status == "kept"
    assert done.record["candidate"] == {**done.record["present"], "horizon": HORIZON, "history": 3}
    assert "the present model stays" in done.message
    assert present_model(pipeline) == before


def test_j10_forecasts_are_made_by_it_and_going_back_is_told_of(tmp_path: Path) -> None:
    pipeline = make(tmp_path)
    deliver(pipeline, *range(NEXT, NEXT + 3))
    run(pipeline, init=TIMES[NEXT])
    old = stf.Forecaster.load(pipeline.model)
    (pipeline.output / ".models").mkdir()
    other = stf.fit(
        SERIES.isel(time=slice(NEXT)),
        history=3,
        horizon=HORIZON,
        network=SMALL,
        training=stf.TrainingConfig(epochs=1, seed=1),
    )
    other.save(pipeline.output / ".models" / "other")
    link_to(pipeline.output / "model", Path(".models/other"))
    done = run(pipeline, init=TIMES[NEXT + 1])
    assert done.record["choice"]["model"] == other.weights_hash()
    # What the model before it said is no measure of it.
    assert done.record["checks"]["jump"] == "not compared: the one before is of another model"
    assert not done.record["warnings"]
    (pipeline.output / "model").unlink()
    back = run(pipeline, init=TIMES[NEXT + 2])
    assert back.record["choice"]["model"] == old.weights_hash()
    assert ["CKPT_ROLLBACK" in text for text in back.record["warnings"]] == [True]


def test_what_was_interrupted_goes_on_with_the_same_frames_while_forecasts_are_made(
    tmp_path: Path, retrained: tuple[Pipeline, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make(tmp_path)

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stf.Forecaster, "calibrated", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retrain(pipeline)
    assert (pipeline.output / ".retraining" / "run" / "run.json").exists()
    for row in range(NEXT, NEXT + 3):
        deliver(pipeline, row)
        run(pipeline, clock=clock_of(row))
    done = retrain(pipeline)
    assert done.record["resumed"]
    assert done.record["end"] == "2016-02-09T18:00"
    assert done.record["candidate"] == retrained[1].record["candidate"]


def test_it_is_due_by_the_times_of_the_data(tmp_path: Path) -> None:
    pipeline = make(tmp_path, every="2d")
    # Its test period reaches beyond the store, so the fit before is as old as the store.
    assert not is_due(pipeline)
    assert retrain(pipeline, if_due=True).status == "not due"
    records = pipeline.output / RETRAINS
    records.mkdir()
    remember(records / "20160209T1800.json", {"status": "kept"})
    for row, due in ((NEXT, False), (NEXT + 6, False), (NEXT + 7, True)):
        deliver(pipeline, row)
        stf.append(SERIES.isel(time=[row]), pipeline.store, allow_gaps=True)
        assert is_due(pipeline) == due
    # After a fault it is tried again a day later.
    remember(records / "20160211T1800.json", {"status": "failed"})
    assert not is_due(pipeline)
    stf.append(SERIES.isel(time=slice(NEXT + 8, NEXT + 12)), pipeline.store)
    assert is_due(pipeline)


@pytest.mark.parametrize(
    ("changes", "fault", "kind"),
    [
        ({"recent": "60d"}, r"leave none for one of training, retrain\.validation", ErrorKind.TIME_SHORT),
        ({"horizon": HORIZON - 1}, r"retrain\.horizon is 3 steps, and forecasts have 4", ErrorKind.ARGUMENT),
        ({"recent": "18h"}, "no forecast of 4 steps", ErrorKind.TIME_SHORT),
    ],
)
def test_what_cannot_be_is_refused_and_the_present_model_stays(
    tmp_path: Path, changes: dict[str, Any], fault: str, kind: ErrorKind
) -> None:
    pipeline = make(tmp_path, **changes)
    with pytest.raises(StforecastError, match=fault) as caught:
        retrain(pipeline)
    assert caught.value.kind == kind
    assert present_model(pipeline) == pipeline.model
    records = [json.loads(file.read_text()) for file in (pipeline.output / RETRAINS).glob("*.json")]
    assert [(one["status"], one["error"]["kind"]) for one in records] == [("failed", kind)][: len(records)]


def test_only_one_at_a_time_and_only_where_it_is_asked_for(tmp_path: Path, monkeypatch, capsys) -> None:
    plain = make_pipeline(tmp_path / "plain")
    with pytest.raises(StforecastError, match="tiny has no retrain section"):
        retrain(plain)
    pipeline = make(tmp_path)
    with lock(pipeline.output / "model"):
        with pytest.raises(StforecastError, match="is being fitted anew by process") as caught:
            retrain(pipeline)
        assert caught.value.kind == ErrorKind.RUN_ACTIVE
        # Forecasts have a lock of their own.
        deliver(pipeline, NEXT)
        assert run(pipeline, clock=clock_of(NEXT)).status == "published"
        assert run_command("retrain", tmp_path / "pipeline.yaml", monkeypatch=monkeypatch) == 9
    capsys.readouterr()
    options = ("retrain", tmp_path / "pipeline.yaml", "--if-due", "--json")
    assert run_command(*options, monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out) == {"status": "not due"}
    np.testing.assert_array_equal(Archive(pipeline.output).inits(), TIMES[[NEXT]])
