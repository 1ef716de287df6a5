"""The published protocols: what each fault of the published rule does, in closed form, then both commands whole."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import openstl_rule
import pytest
import torch
import xarray as xr
import yaml
from factory import make_city, make_series
from openstl_rule import Material, PublishedSchedule, WholeBatches
from protocol import app, read_settings
from typer.testing import CliRunner

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.windows import WindowLoader, window_starts

PIPELINES = Path(__file__).parent.parent / "pipelines"
TAXIBJ, T2M = PIPELINES / "taxibj.yaml", PIPELINES / "weatherbench_t2m.yaml"
HISTORY, HORIZON = 3, 3
# 6-hourly from 2016-01-01: 20 days, 4 and 16.
SPLIT = stf.Split(
    train=("2016-01-01", "2016-01-20"), validation=("2016-01-21", "2016-01-24"), test=("2016-01-25", "2016-02-09")
)
SMALL = stf.NetworkConfig(
    hidden_spatial=4, hidden_temporal=8, temporal_layers=2, mlp_ratio=2, first_guess="none", circular=False, parity=True
)


def years(*, shift: float = 0.0, stretch: float = 1.0, absent: tuple[int, ...] = ()) -> xr.Dataset:
    """40 days of weather whose test period is the training period's in another form."""
    series = make_series(160, absent=absent)
    in_test = series["time"] >= np.datetime64("2016-01-25")
    return series.assign(t2m=series["t2m"].where(~in_test, 280 + stretch * (series["t2m"] - 280) + shift)).assign(
        t2m=lambda made: made["t2m"].astype(np.float32).assign_attrs(series["t2m"].attrs)
    )


def material_of(series: xr.Dataset) -> Material:
    return openstl_rule.weatherbench(series, SPLIT, HISTORY, HORIZON)


def persistence_by_openstl(series: xr.Dataset) -> dict[str, float]:
    return openstl_rule.scores(openstl_rule.last_frame(HORIZON), material_of(series), HISTORY, HORIZON)


def mean_by_openstl(series: xr.Dataset) -> dict[str, float]:
    """What a network that knows no more than to give its middle value, 0, scores."""
    return openstl_rule.scores(lambda seen: torch.zeros_like(seen[:, :HORIZON]), material_of(series), HISTORY, HORIZON)


def honest_rmse(series: xr.Dataset, first: float) -> float:
    """What a forecast of one value scores over the test period by `stforecast.evaluate`, all leads together."""
    split = SPLIT.part_rows(series["time"].to_numpy(), "test")
    inits = series["time"].to_numpy()[split.start - 1 : split.stop - HORIZON]
    leads = np.arange(1, HORIZON + 1) * np.timedelta64(6, "h").astype("timedelta64[ns]")
    forecast = stf.baselines.fit_references(["persistence"], horizon=HORIZON)["persistence"].predict(
        series, init_times=inits, horizon=HORIZON
    )
    assert forecast["lead_time"].to_numpy().tolist() == leads.tolist()
    scores = stf.evaluate(forecast.assign(t2m=xr.full_like(forecast["t2m"], first)), series)
    return float(np.sqrt((scores["t2m"].sel(source="forecast", metric="rmse") ** 2).mean()))


def made_of(prediction: torch.Tensor, target: torch.Tensor, *, is_summed: bool, scale: float = 1.0) -> dict[str, float]:
    """The scores of one window with these frames, (t, c, y, x)."""
    frames = torch.cat([torch.zeros_like(target), target])
    material = Material(
        frames={"test": frames},
        starts={"test": np.array([0])},
        location=torch.full((1, 1, 1), 7.0),
        scale=torch.full((1, 1, 1), scale),
        units="K",
        is_summed=is_summed,
        bridged={},
        faults=[],
    )
    # In [0, 1] nothing is added; elsewhere what is added must not matter.
    if is_summed:
        material.location.zero_()
    return openstl_rule.scores(lambda _: prediction[None], material, len(target), len(target))


def test_a_shifted_test_period_vanishes_from_the_openstl_score_and_not_from_the_honest_one() -> None:
    as_it_was, shifted = years(), years(shift=5.0)
    for score in (mean_by_openstl, persistence_by_openstl):
        # float32 holds 280 K to 3e-5 K.
        assert score(shifted) == pytest.approx(score(as_it_was), rel=1e-5)
    deviation = material_of(as_it_was).scale.item()
    assert mean_by_openstl(shifted)["mse"] == pytest.approx(deviation**2, rel=0.05)
    test = SPLIT.select(as_it_was, "test")["t2m"]
    centre = float(test.weighted(np.cos(np.deg2rad(test["latitude"]))).mean())
    plain, offset = honest_rmse(as_it_was, centre), honest_rmse(shifted, centre)
    # (e + 5)² = e² + 25 where the errors e are of mean 0.
    assert offset**2 - plain**2 == pytest.approx(25, rel=0.1)


def test_errors_of_a_livelier_test_period_are_divided_by_how_much_livelier_it_is() -> None:
    assert persistence_by_openstl(years(stretch=2.0)) == pytest.approx(persistence_by_openstl(years()), rel=1e-4)
    quotient = material_of(years()).scale.item() / float(SPLIT.select(years(), "test")["t2m"][:-1].std())
    rows = SPLIT.select(years(), "test")["t2m"].to_numpy()[:-1].astype(np.float64)
    starts = np.arange(len(rows) - HISTORY - HORIZON)
    errors = [rows[row + HISTORY - 1] - rows[row + HISTORY + lead] for row in starts for lead in range(HORIZON)]
    expected = quotient * math.sqrt(np.mean(np.square(errors)))
    assert persistence_by_openstl(years())["rmse"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("hours", "windows"), [(6 * 365 * 24 + 24, 52_559), (2 * 365 * 24, 17_495)])
def test_two_rows_of_each_part_are_wasted(hours: int, windows: int) -> None:
    """The numbers of the published periods, 2010-2015 and 2017-2018."""
    times = np.datetime64("2010-01-01", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    assert len(openstl_rule.positional_starts(hours - 1, 12, 12)) == windows
    assert len(window_starts(times, np.timedelta64(1, "h"), 24)) == windows + 2


def test_a_gap_is_bridged_and_counted() -> None:
    series = years(absent=(30, 31, 32))
    material, whole = material_of(series), material_of(years())
    length = HISTORY + HORIZON
    # A window crosses a gap in its inside, so one shorter than it is long.
    assert material.bridged == {"train": length - 1, "test": 0}
    assert whole.bridged == {"train": 0, "test": 0}
    # 80 frames, less three, one wasted before and one behind the windows are cut.
    assert len(material.starts["train"]) == 77 - 1 - length
    assert f"{length - 1} of {77 - 1 - length} to train" in " ".join(material.faults)
    rows = window_starts(series["time"].to_numpy(), np.timedelta64(6, "h"), length, part=slice(0, 77))
    assert not set(rows) & set(range(30 - length + 1, 30))
    assert set(range(30 - length + 1, 30)) <= set(material.starts["train"])


def test_errors_are_summed_over_a_frame_of_flows_and_averaged_over_weather() -> None:
    target = torch.full((2, 2, 4, 4), 0.5, dtype=torch.float64)
    summed = made_of(target + 0.1, target, is_summed=True)
    assert summed == pytest.approx({"mse": 32 * 0.01, "mae": 32 * 0.1, "psnr": 20})  # 20 log10(1 / 0.1) dB
    mean = made_of(target + 0.1, target, is_summed=False, scale=3.0)
    assert mean == pytest.approx({"mse": 0.09, "rmse": 0.3, "mae": 0.3})


def test_only_the_signal_to_noise_ratio_is_of_predictions_cut_to_the_unit_interval() -> None:
    target = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert made_of(target + 0.5, target, is_summed=True) == pytest.approx({"mse": 1.0, "mae": 2.0, "psnr": math.inf})


def test_the_signal_to_noise_ratio_is_the_mean_over_frames_of_decibels() -> None:
    target = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    prediction = torch.stack([target[0] + 0.1, target[1] + 0.01])
    assert made_of(prediction, target, is_summed=True)["psnr"] == pytest.approx((20 + 40) / 2)


def test_a_row_of_cells_at_the_pole_counts_as_much_as_one_at_the_equator() -> None:
    target = torch.zeros(1, 1, 32, 64, dtype=torch.float64)
    scores = []
    for row in (0, 15):
        prediction = target.clone()
        prediction[..., row, :] = 1.0
        scores.append(made_of(prediction, target, is_summed=False)["mse"])
    assert scores == pytest.approx([1 / 32, 1 / 32])


def test_the_test_windows_choose_the_epoch() -> None:
    material, schedule = material_of(years()), PublishedSchedule(5e-3, 3, 0)
    training = stf.TrainingConfig(epochs=3, learning_rate=5e-3, schedule="constant", gradient_clip=1e9)
    network, record = openstl_rule.fit(material, SMALL, training, schedule, HISTORY, HORIZON)
    scored = openstl_rule.scores(network, material, HISTORY, HORIZON)["mse"]
    assert scored == pytest.approx(min(record.validation_loss) * material.scale.item() ** 2, rel=1e-4)


def test_the_learning_rate_rises_by_epoch_and_falls_as_a_cosine_without_the_rise_before_it() -> None:
    rate = PublishedSchedule(5e-4, 50, 5).rate
    rise = [1e-5 + epoch * 49e-5 / 5 for epoch in range(5)]
    assert [rate(epoch) for epoch in range(5)] == pytest.approx(rise)
    assert rate(25) == pytest.approx((5e-4 + 1e-6) / 2)  # half the way down at half of the epochs
    assert rate(5) == pytest.approx(1e-6 + 499e-6 * (1 + math.cos(math.pi / 10)) / 2)


def test_that_is_the_learning_rate_that_a_fit_uses(tmp_path: Path) -> None:
    stf.prepare(years(), tmp_path / "s.zarr", SPLIT)
    schedule = PublishedSchedule(1e-3, 4, 2)
    training = stf.TrainingConfig(epochs=4, batch_size=8, schedule="constant")
    options = {"network": SMALL, "training": training, "lightning": {"callbacks": [schedule]}}
    stf.fit(tmp_path / "s.zarr", history=HISTORY, horizon=HORIZON, run=tmp_path / "run", **options)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        used = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert used == pytest.approx([schedule.rate(epoch) for epoch in range(4)])


def test_only_whole_batches_are_learnt_from_and_others_are_left_out_in_each_pass() -> None:
    windows = WholeBatches(torch.arange(30.0).reshape(30, 1, 1, 1), np.arange(20), 3, 3, batch_size=8, seed=1)
    passes = [[rows for _, _, rows in windows.epoch(number)] for number in range(8)]
    assert len(windows) == 2
    assert all([len(rows) for rows in batches] == [8, 8] for batches in passes)
    seen = [set(torch.cat(batches).tolist()) for batches in passes]
    assert all(len(rows) == 16 for rows in seen)
    assert set.union(*seen) == set(range(20))
    history, target, rows = next(windows.epoch(0))
    assert (history[:, 0].flatten() == rows).all()
    assert (target[:, 0].flatten() == rows + 3).all()


def test_the_last_whole_windows_of_flows_are_the_test_and_training_ends_before_them() -> None:
    city = make_city(100).isel(time=np.setdiff1d(np.arange(100), [40]))
    city["inflow"][98] = 1000.0
    material = openstl_rule.taxibj(city, 10, 4, 4)
    assert material.starts["test"].tolist() == list(range(82, 92))
    # The slot that is absent takes seven windows; those that reach the first test frame are no training.
    assert material.starts["train"].tolist() == [*range(33), *range(40, 75)]
    assert "(7 of 92)" in material.remarks[0]
    learnt = material.frames["train"][:82]
    assert (learnt.min().item(), learnt.max().item()) == (0.0, 1.0)
    assert material.frames["test"][98, 0].min() > 1
    assert material.bridged == {"train": 0, "test": 0}


def write_archive(path: Path, windows: int = 6) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    names = ("X_train", "Y_train", "X_test", "Y_test")
    arrays = {name: random.uniform(-1, 1, (windows, 4, 2, 8, 8)).astype(np.float32) for name in names}
    np.savez(path, **arrays)
    return arrays


def test_the_windows_of_the_published_archive_are_taken_as_they_are_cut(tmp_path: Path) -> None:
    arrays = write_archive(tmp_path / "dataset.npz")
    material = openstl_rule.taxibj_archive(tmp_path / "dataset.npz", 4, 4)
    windows = WindowLoader(material.frames["test"], material.starts["test"], 4, 4, batch_size=6)
    ((history, target, _),) = windows.epoch(0)
    np.testing.assert_allclose(history, (arrays["X_test"] + 1) / 2)
    np.testing.assert_allclose(target, (arrays["Y_test"] + 1) / 2)
    with pytest.raises(StforecastError, match="windows of 4 and 4 frames, wanted 12 and 12; set history and horizon"):
        openstl_rule.taxibj_archive(tmp_path / "dataset.npz", 12, 12)


def test_too_little_to_learn_from_is_refused() -> None:
    with pytest.raises(StforecastError, match=r"train part has no window: 28 frames or more are wanted, 20 are there"):
        openstl_rule.taxibj(make_city(20), 20, 4, 4)
    with pytest.raises(StforecastError, match="the test part has no window: 66 frames or more are wanted, 64 are"):
        openstl_rule.weatherbench(years(), SPLIT, 32, 32)
    material, schedule = material_of(years()), PublishedSchedule(1e-3, 1, 0)
    with pytest.raises(StforecastError, match=r"73 training windows are fewer than a batch of 100, .* lower training"):
        openstl_rule.fit(material, SMALL, stf.TrainingConfig(batch_size=100), schedule, HISTORY, HORIZON)


def test_the_files_have_the_published_settings() -> None:
    for path, frames, warm_up in ((TAXIBJ, 4, 5), (T2M, 12, 0)):
        settings = read_settings(path)
        assert (settings.protocol, settings.history, settings.horizon) == ("openstl", frames, frames)
        assert settings.training_config == stf.TrainingConfig(
            epochs=50, batch_size=16, learning_rate=5e-4, schedule="constant", divergence_weight=0.1, gradient_clip=1e9
        )
        assert settings.schedule.warm_up == warm_up
        assert settings.network_config == stf.NetworkConfig(first_guess="none", circular=False, parity=True)
    assert read_settings(T2M).periods == stf.Split(("2010", "2015"), ("2016", "2016"), ("2017", "2018"))
    assert read_settings(TAXIBJ).periods.test == ("2016-03-14", "2016-04-10")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"horizn": 4}, "unknown key horizn; the nearest is horizon"),
        ({"training.epoch": 1}, r"unknown key training\.epoch; the nearest is training\.epochs"),
        ({"training.epochs": 0}, r"training\.epochs: .* greater than 0, got 0"),
        ({"network": 3}, r"network: .*, got 3"),
        ({"network.drop_path.last": 3}, r"drop_path of network\.drop_path\.last is a value and has no last"),
        ({"horizon": 8}, "as many frames as it sees: wanted a horizon of 4, got 8"),
        ({"protocol": "best"}, "protocol: .* 'openstl' or 'honest', got 'best'"),
        ({"data": "moving_mnist"}, "data must be taxibj or weatherbench, not 'moving_mnist'"),
        ({"data": "weatherbench"}, "variable is missing; unknown key test_windows; the nearest is"),
        ({"data": ["taxibj"]}, r"data must be taxibj or weatherbench, not \['taxibj'\]"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_with_its_key(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(StforecastError, match=fault) as caught:
        read_settings(TAXIBJ, changes)
    assert caught.value.kind == (ErrorKind.CONFIG_UNKNOWN_KEY if "unknown key" in fault else ErrorKind.ARGUMENT)


def test_files_that_are_no_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    with pytest.raises(StforecastError, match=r"there is no file .*protocol\.yaml"):
        read_settings(path)
    for text, fault in (("data: [", "is no YAML: while parsing"), ("taxibj", "has no settings, wanted lines such as")):
        path.write_text(text)
        with pytest.raises(StforecastError, match=fault):
            read_settings(path)
    # Nothing but plain values is ever made of a file.
    path.write_text("data: !!python/object/apply:os.getcwd []")
    with pytest.raises(StforecastError, match="could not determine a constructor"):
        read_settings(path)


TINY = {
    "network.hidden_spatial": 4,
    "network.hidden_temporal": 8,
    "network.temporal_layers": 2,
    "network.mlp_ratio": 2,
    "training.epochs": 1,
    "training.batch_size": 32,
    "references": "[persistence]",
}
JOURNEYS = {
    TAXIBJ: {
        "test_windows": 60,
        "split.train": "2013..2014-03-02",
        "split.validation": "2014-03-03",
        "split.test": "2014-03-04",
    },
    T2M: {"split.train": "2016-01..2016-04", "split.validation": "2016-05", "split.test": "2016-06..2016-07"},
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    folder = tmp_path_factory.mktemp("raw")
    stf.write_sample("weather", folder / "weather", years=1, step_hours=24)
    stf.write_sample("traffic", folder / "traffic", periods=2, days=4)
    return {TAXIBJ: folder / "traffic", T2M: folder / "weather"}


def command(path: Path, raw: Path, output: Path, changes: dict[str, object], *options: str) -> tuple[int, str, str]:
    settings = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    found = CliRunner().invoke(app, [str(path), str(raw), "--output", str(output), *settings, *options])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.stdout, found.stderr


@pytest.mark.parametrize("path", [TAXIBJ, T2M], ids=lambda path: path.stem)
@pytest.mark.parametrize("protocol", ["openstl", "honest"])
def test_a_protocol_runs_whole_from_raw_files_in_the_published_layout(
    tmp_path: Path, raw: dict[Path, Path], path: Path, protocol: str
) -> None:
    status, said, error = command(path, raw[path], tmp_path, TINY | JOURNEYS[path], "--protocol", protocol)
    assert (status, error) == (0, "")
    folder = tmp_path / f"{path.stem}_{protocol}"
    page, described = (folder / "report.md").read_text(), json.loads((folder / "scores.json").read_text())
    assert page in said
    assert f"rule: {protocol}" in page
    assert "Generated" in page
    assert described["rule"] == protocol == described["settings"]["protocol"]
    assert described["settings"]["training"]["epochs"] == 1
    assert ("There is no validation: the test windows chose the epoch." in described["faults"]) == (
        protocol == "openstl"
    )
    values = list(described["scores"].values())
    assert len(values) == (4 if (protocol, path) == ("honest", TAXIBJ) else 2)
    assert all(math.isfinite(one["mae"] if protocol == "openstl" else min(one["mae"].values())) for one in values)
    metrics = {"openstl": {TAXIBJ: {"mse", "mae", "psnr"}, T2M: {"mse", "rmse", "mae"}}[path]}
    assert set(values[0]) == metrics.get(protocol, {"bias", "mae", "rmse"})


def test_the_published_archive_runs_by_the_published_rule_alone(tmp_path: Path) -> None:
    write_archive(tmp_path / "dataset.npz")
    small = TINY | {"training.batch_size": 2}
    status, said, error = command(TAXIBJ, tmp_path, tmp_path / "out", small)
    assert (status, error) == (0, "")
    assert "The archive has no times and no scale" in said
    status, _, error = command(TAXIBJ, tmp_path, tmp_path / "out", small, "--protocol", "honest")
    assert status == 3
    assert "which have no times and are no series" in error


def test_a_mistake_is_one_line_and_a_status(tmp_path: Path, raw: dict[Path, Path]) -> None:
    status, said, error = command(T2M, raw[T2M], tmp_path, {"training.epoch": 1})
    assert (status, said) == (2, "")
    assert error.endswith("unknown key training.epoch; the nearest is training.epochs [CONFIG_UNKNOWN_KEY]\n")
    for changes, fault in (
        ({"split.test": "2031"}, "no frame"),
        ({"variable": "tcc"}, "no variable tcc"),
        ({"epochs": "["}, "the value of 'epochs=[' is no YAML"),
    ):
        status, _, error = command(T2M, raw[T2M], tmp_path, JOURNEYS[T2M] | changes)
        assert status in (2, 3)
        assert fault in error
    assert CliRunner().invoke(app, [str(T2M), "raw", "--set", "epochs"]).exit_code == 2
    (tmp_path / "in_the_way").touch()
    status, _, error = command(T2M, raw[T2M], tmp_path / "in_the_way", TINY | JOURNEYS[T2M])
    assert status == 6
    assert "[IO_ERROR]" in error


def test_the_files_differ_in_nothing_but_what_their_data_alone_have() -> None:
    taxibj, weather = (yaml.safe_load(path.read_text()) for path in (TAXIBJ, T2M))
    assert set(taxibj) ^ set(weather) == {"test_windows", "variable"}
    assert all(set(taxibj[section]) == set(weather[section]) for section in ("split", "network", "training"))
