"""The command line, as a user runs it: the journeys in this process, what a shell sees in one of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series
from test_grid import make_forecast

import stforecast as stf
from stforecast import cli
from stforecast.errors import StforecastError
from stforecast.forecasts import write_forecast
from stforecast.store.versions import lock


def run(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of `stforecast ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["stforecast", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.nc"
    make_series(120).to_netcdf(path)
    return path


def test_a_raw_file_becomes_scores_and_a_map(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, model, forecast = tmp_path / "s.zarr", tmp_path / "model", tmp_path / "forecast.nc"
    sizes = ("--hidden-spatial", 4, "--hidden-temporal", 8, "--temporal-layers", 2)
    steps = [
        ("prepare", raw, store),
        ("fit", store, model, "--history", 4, "--horizon", 2, "--epochs", 1, *sizes),
        ("predict", model, store, forecast, "--part", "test", "--every", 2, "--backend", "folded"),
        ("evaluate", forecast, store, "--reference", "persistence", "--curve", tmp_path / "skill.png"),
        ("plot", forecast, store, tmp_path / "map.png", "--lead", "6h"),
        ("plot", forecast, store, tmp_path / "film.gif", "--seconds", 0.2),
    ]
    for step in steps:
        assert run(*step, monkeypatch=monkeypatch) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "70 % to train" not in out
    assert "t2m" in out
    assert "persistence" in out
    for name in ("skill.png", "map.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")
    assert run("evaluate", forecast, store, "--json", monkeypatch=monkeypatch) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["dims"]["source"] == 2
    assert scores["coords"]["lead_time"]["data"] == [21600, 43200]
    assert run("predict", model, raw, tmp_path / "raw_forecast.nc", "--interval", 0.8, monkeypatch=monkeypatch) == 0
    with xr.open_dataset(tmp_path / "raw_forecast.nc", decode_timedelta=True) as opened:
        assert dict(opened.sizes) == {"init_time": 1, "lead_time": 2, "latitude": 4, "longitude": 6}
        assert (opened["t2m_upper"] > opened["t2m_lower"]).all()
        assert opened["t2m_upper"].attrs["interval"] == 0.8


def test_scores_come_by_metric_hour_and_region_with_a_card(tmp_path: Path, raw: Path, monkeypatch, capsys) -> None:
    store, forecast = tmp_path / "s.zarr", tmp_path / "forecast.nc"
    assert run("prepare", raw, store, monkeypatch=monkeypatch) == 0
    series = stf.open_store(store)
    persistence = stf.baselines.SeasonalPersistence(np.timedelta64(1, "D"))
    write_forecast(persistence.predict(series, init_times=series["time"].to_numpy()[96:112], horizon=2), forecast)
    capsys.readouterr()
    options = (
        "--metric",
        "rmse",
        "--metric",
        "acc",
        "--by",
        "hour",
        "--region",
        "north=0:,:",
        "--region",
        "w=:,180:360",
    )
    card = tmp_path / "card.png"
    assert run("evaluate", forecast, store, *options, "--card", card, monkeypatch=monkeypatch) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert "t2m (K), rmse, north, hour 6" in out
    assert "t2m (1), acc, w, hour 18" in out
    assert card.read_bytes().startswith(b"\x89PNG")
    curve = ("--confidence", "0.9", "--curve", tmp_path / "curve.png", "--json")
    assert run("evaluate", forecast, store, *curve, monkeypatch=monkeypatch) == 0, capsys.readouterr()
    coords = json.loads(capsys.readouterr().out)["coords"]
    assert coords["t2m_skill_interval"]["dims"] == ["bound", "source", "reference", "metric", "lead_time"]


@pytest.fixture(scope="module")
def drawables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a forecast f.nc that has winds and bounds, its truth raw.nc and s.zarr, and parts of it."""
    folder = tmp_path_factory.mktemp("drawables")
    series = make_series(120, shape=(6, 8), variables=("t2m", "u10", "v10"))
    for name in ("u10", "v10"):
        series[name] = (series[name] - series[name].mean()).assign_attrs(units="m s**-1", long_name=f"variable {name}")
    series.to_netcdf(folder / "raw.nc")
    series.isel(time=slice(0, 40)).to_netcdf(folder / "early.nc")
    series.isel(time=slice(90, None)).to_netcdf(folder / "late.nc")
    stf.prepare(series, folder / "s.zarr", stf.Split.by_fraction(series["time"].to_numpy()))
    forecast = stf.baselines.Persistence().predict(series, init_times=series["time"].to_numpy()[100:102], horizon=3)
    bounds = {f"t2m_{bound}": forecast["t2m"] + off for bound, off in (("lower", -1), ("upper", 1))}
    for name in bounds:
        bounds[name].attrs = {"units": "K", "interval": 0.9, "interval_of": "t2m"}
    write_forecast(forecast.assign(bounds), folder / "f.nc")
    return folder


@pytest.fixture
def plot(drawables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`stforecast plot` of that forecast in a folder that is empty; the exit status."""
    monkeypatch.chdir(tmp_path)

    def ends(*arguments: object) -> int:
        paths = [drawables / str(word) if (drawables / str(word)).exists() else word for word in arguments]
        return run("plot", drawables / "f.nc", *paths, monkeypatch=monkeypatch)

    return ends


@pytest.mark.parametrize(
    ("arguments", "magic"),
    [
        (("map.png", "--winds", "--projection", "robinson:180"), b"\x89PNG"),
        (("raw.nc", "map.svg", "--lead", "6h", "--projection", "PlateCarree:180"), b"<?xml"),
        (("map.pdf", "--kind", "panels", "--winds", "--lead", "6h", "--lead", "18h"), b"%PDF"),
        (("film.gif", "--seconds", 0.1, "--kind", "map", "--projection", "Mollweide"), b"GIF89a"),
    ],
)
def test_pictures_and_films_come_without_a_truth_or_with_one(
    plot: Callable[..., int], arguments: tuple[object, ...], magic: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(*arguments) == 0, capsys.readouterr().err
    output = next(str(word) for word in arguments if Path(str(word)).suffix in (*cli.PICTURES, *cli.FILMS))
    assert capsys.readouterr().out == f"{output}\n"
    assert Path(output).read_bytes().startswith(magic)


def test_what_plot_is_asked_for_is_what_it_draws(plot: Callable[..., int], monkeypatch, capsys) -> None:
    drawn: list[str] = []
    for name in ("forecast_map", "comparison", "panels", "anomaly", "interval"):
        draw = getattr(stf.plot, name)

        def noted(*given: object, draw=draw, **options: object) -> object:
            figure = draw(*given, **options)
            drawn.append(" / ".join(axes.get_title().replace("\n", ", ") for axes in figure.axes if axes.get_title()))
            return figure

        monkeypatch.setattr(stf.plot, name, noted)
    monkeypatch.setattr(stf.plot, "save", lambda figure, path: path)
    for arguments in (
        ("m.png", "--lead", "12h", "--variable", "v10"),
        ("s.zarr", "m.png", "--init", "2016-01-26T00"),
        ("m.png", "--kind", "panels", "--lead", "18h", "--lead", "6h"),
        ("s.zarr", "m.png", "--kind", "anomaly"),
        ("m.png", "--kind", "interval", "--lead", "6h"),
    ):
        assert plot(*arguments) == 0, capsys.readouterr().err
    at = "valid 2016-01-26 {} UTC, init 2016-01-26 {}, lead {} h".format
    assert drawn == [
        "Forecast: variable v10 [m s⁻¹], " + at("18:00", "06:00", 12),
        " / ".join(
            f"{heading} [K], " + at("18:00", "00:00", 18)
            for heading in ("Forecast", "Truth", "Error: forecast minus truth")
        ),
        "Forecast [K], valid 2016-01-27 00:00 UTC, init 2016-01-26 06:00, lead 18 h / Forecast [K], "
        + at("12:00", "06:00", 6),
        "variable t2m anomaly [K], valid 2016-01-27 00:00 UTC, init 2016-01-26 06:00, lead 18 h",
        "variable t2m, width of the 90% prediction interval [K], " + at("12:00", "06:00", 6),
    ]


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("map.png", "--variable", "q"), "the forecast has no variable q, it has ['t2m', 'u10', 'v10'", 3),
        (("map.png", "--lead", "5h"), "the forecast has no lead_time 5h, it has 3 from 6 h to 18 h", 3),
        (("map.png", "--level", 500), "variable t2m has no levels; leave level=500 out", 2),
        (("map.png", "--kind", "interval", "--variable", "u10"), "the forecast has no bounds of u10", 3),
        (("map.png", "--projection", "Robin"), "there is no projection Robin; there are Aitoff, AlbersEqualArea", 2),
        (("map.png", "--projection", "_Eckert"), "there is no projection _Eckert; there are Aitoff", 2),
        (("map.png", "--projection", "Robinson:1,2"), "wants a centre in degrees, e.g. Robinson:-30, not Robin", 2),
        (("map.png", "--projection", "Gnomonic:x"), "a centre in degrees, e.g. Gnomonic:-30,40, not Gnomonic:x", 2),
        (("map.png", "--context", "none.geojson"), "there is no file none.geojson to draw over the map", 3),
        (("nothing.zarr", "map.png"), "nothing.zarr", 3),
        (("early.nc", "map.png"), "which the truth lacks", 3),
        (("late.nc", "map.png", "--kind", "anomaly"), "neither TRUTH nor the forecast says which period is normal", 2),
    ],
)
def test_a_picture_that_cannot_be_is_one_line(
    plot: Callable[..., int], arguments: tuple[object, ...], words: str, status: int, capsys
) -> None:
    assert plot(*arguments) == status
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not Path("map.png").exists()


def test_a_projection_that_cartopy_fails_in_is_named() -> None:
    with (
        pytest.raises(StforecastError, match=r"cannot be drawn in Hammer:3 \(no polygon\); choose another projection"),
        cli._drawn_in("Hammer:3"),
    ):
        raise TypeError("no polygon")
    with pytest.raises(TypeError, match="no polygon"), cli._drawn_in(None):  # our own fault is no user's
        raise TypeError("no polygon")


def test_periods_on_the_command_line_are_the_split(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    periods = (
        "--train",
        "2016-01-01..2016-01-15",
        "--validation",
        "2016-01-16..2016-01-20",
        "--test",
        "2016-01-21..2016",
    )
    assert run("prepare", raw, tmp_path / "s.zarr", *periods, monkeypatch=monkeypatch) == 0
    split = json.loads(xr.open_zarr(tmp_path / "s.zarr").attrs["split"])
    assert split["train"] == ["2016-01-01", "2016-01-15"]
    assert run("prepare", raw, tmp_path / "t.zarr", *periods[:2], monkeypatch=monkeypatch) == 2
    assert "needs all of --train, --validation and --test" in capsys.readouterr().err


def test_a_store_is_built_in_parts_grown_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series = make_series(120)
    series.isel(time=slice(100)).to_netcdf(tmp_path / "first.nc")
    series.isel(time=slice(98, 120)).to_netcdf(tmp_path / "second.nc")
    store = tmp_path / "s.zarr"
    for share in ("2/2", "1/2"):
        options = ("--parts", share, "--method", "min-max")
        assert run("prepare", tmp_path / "first.nc", store, *options, monkeypatch=monkeypatch) == 0, capsys.readouterr()
        assert not store.exists()
    assert run("prepare", tmp_path / "first.nc", store, "--method", "t2m=min-max", monkeypatch=monkeypatch) == 0
    assert run("append", tmp_path / "second.nc", store, monkeypatch=monkeypatch) == 0
    assert "20 added, 0 replaced, 2 there already" in capsys.readouterr().out
    assert run("append", tmp_path / "second.nc", store, monkeypatch=monkeypatch) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run("validate", store, monkeypatch=monkeypatch) == 0
    assert "is sound" in capsys.readouterr().out
    (store / "t2m" / "c" / "0" / "0" / "0").unlink()
    assert run("validate", store, monkeypatch=monkeypatch) == 4
    assert "t2m/c/0/0/0 is missing [STORE_INCOMPLETE]" in capsys.readouterr().out


@pytest.mark.parametrize("region", ["north", "north=30:60", "north=a:b,c:d", "north=1:2:3,4:5"])
def test_a_region_that_says_no_box_is_named(tmp_path: Path, region: str, monkeypatch, capsys) -> None:
    series = make_series(40)
    forecast = write_forecast(make_forecast(series), tmp_path / "f.nc")
    series.to_netcdf(tmp_path / "raw.nc")
    assert run("prepare", tmp_path / "raw.nc", tmp_path / "s.zarr", monkeypatch=monkeypatch) == 0
    assert run("evaluate", forecast, tmp_path / "s.zarr", "--region", region, monkeypatch=monkeypatch) == 2
    assert (
        f"--region wants NAME=SOUTH:NORTH,WEST:EAST, e.g. north=30:60,350:20, not '{region}'" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "words"), [(("--parts", "two"), "wants I/N"), (("--method", "a", "--method", "b"), "VARIABLE=")]
)
def test_options_that_say_nothing_are_named(
    tmp_path: Path, raw: Path, options, words: str, monkeypatch, capsys
) -> None:
    assert run("prepare", raw, tmp_path / "s.zarr", *options, monkeypatch=monkeypatch) == 2
    assert words in capsys.readouterr().err


def test_a_region_of_a_coarser_grid_is_prepared_by_choice(tmp_path: Path, monkeypatch, capsys) -> None:
    make_series(120, shape=(8, 12)).to_netcdf(tmp_path / "raw.nc")
    options = (
        "--region",
        -90,
        90,
        0,
        359,
        "--coarsen",
        2,
        "--latitude",
        "descending",
        "--step",
        "12h",
        "--resample",
        "mean",
    )
    assert run("prepare", tmp_path / "raw.nc", tmp_path / "s.zarr", *options, monkeypatch=monkeypatch) == 0
    opened = xr.open_zarr(tmp_path / "s.zarr")
    assert dict(opened.sizes) == {"time": 60, "latitude": 4, "longitude": 6}
    assert opened["latitude"][0] > opened["latitude"][-1]
    assert run("prepare", tmp_path / "raw.nc", tmp_path / "t.zarr", "--latitude", "up", monkeypatch=monkeypatch) == 2
    assert "up" in capsys.readouterr().err


def test_the_grid_of_other_data_is_taken_by_choice(tmp_path: Path, monkeypatch, capsys) -> None:
    make_series(120, shape=(8, 12)).to_netcdf(tmp_path / "fine.nc")
    coarse = make_series(4, shape=(2, 4))
    coarse = coarse.assign_coords(latitude=[-30.0, 30.0])
    coarse.to_netcdf(tmp_path / "coarse.nc")
    for regrid in ("linear", "conservative"):
        store = tmp_path / f"{regrid}.zarr"
        options = ("--like", tmp_path / "coarse.nc", "--regrid", regrid)
        assert run("prepare", tmp_path / "fine.nc", store, *options, monkeypatch=monkeypatch) == 0
        assert xr.open_zarr(store)["latitude"].to_numpy().tolist() == [-30.0, 30.0]
    wide = coarse.assign_coords(latitude=[-89.0, 89.0])
    wide.to_netcdf(tmp_path / "wide.nc")
    options = ("--like", tmp_path / "wide.nc")
    assert run("prepare", tmp_path / "fine.nc", tmp_path / "s.zarr", *options, monkeypatch=monkeypatch) == 3
    assert "[GRID_SHAPE]" in capsys.readouterr().err


def test_what_lies_at_a_path_is_said_in_words_and_in_json(tmp_path: Path, raw: Path, monkeypatch, capsys) -> None:
    assert run("inspect", raw, monkeypatch=monkeypatch) == 0
    words = capsys.readouterr().out
    assert "t2m" in words
    assert "6 h" in words
    assert run("inspect", raw, "--json", monkeypatch=monkeypatch) == 0
    assert "t2m" in str(json.loads(capsys.readouterr().out))
    assert run("inspect", tmp_path / "nothing.nc", monkeypatch=monkeypatch) == 3
    assert run("inspect", gappy(tmp_path), monkeypatch=monkeypatch) == 3
    assert "[TIME_GAP]" in capsys.readouterr().out


def city(tmp_path: Path) -> Path:
    path = tmp_path / "city.nc"
    make_city().to_netcdf(path)
    return path


def text(tmp_path: Path) -> Path:
    path = tmp_path / "page.nc"
    path.write_text("<html>not found</html>")
    return path


def unsorted(tmp_path: Path) -> Path:
    path = tmp_path / "unsorted.nc"
    series = make_series()
    series.isel(time=[1, 0, *range(2, 80)]).to_netcdf(path)
    return path


def gappy(tmp_path: Path) -> Path:
    path = tmp_path / "gappy.nc"
    make_series(absent=(7, 8)).to_netcdf(path)
    return path


def empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "options", "words", "status"),
    [
        (lambda folder: folder / "nothing.nc", (), "nothing.nc", 3),
        (lambda folder: folder / "raw.nc.part", (), "raw.nc.part", 3),
        (empty, (), "empty", 3),
        (text, (), "page.nc", 3),
        (unsorted, (), "not increasing", 3),
        (gappy, (), "1 gap", 3),
        (city, ("--variable", "speed"), "speed", 3),
        (city, ("--source", "netflix"), "netflix", 2),
        (
            city,
            ("--train", "1999", "--validation", "2000", "--test", "2001"),
            "train period 1999..1999 holds no frame",
            3,
        ),
    ],
    ids=["missing", "missing-part", "empty", "html", "unsorted", "gap", "variable", "source", "split"],
)
def test_p07_a_users_mistake_is_one_line_and_the_status_of_its_kind(
    tmp_path: Path, make, options: tuple[str, ...], words: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    path = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert run("prepare", path, tmp_path / "s.zarr", *options, monkeypatch=monkeypatch) == status
    error = capsys.readouterr().err.strip()
    assert error.startswith("stforecast: ")
    assert words in error
    assert error.count("\n") == 0
    assert sorted(entry for entry in tmp_path.iterdir() if not entry.name.endswith(".lock")) == before


def test_a06_h01_what_another_process_is_writing_is_to_be_tried_later(tmp_path: Path, raw, monkeypatch, capsys) -> None:
    unfinished = raw.rename(tmp_path / "raw.nc.part")
    assert run("prepare", unfinished, tmp_path / "s.zarr", monkeypatch=monkeypatch) == 75
    assert "[FILE_BUSY]" in capsys.readouterr().err
    raw = unfinished.rename(raw)
    with lock(tmp_path / "s.zarr"):
        assert run("prepare", raw, tmp_path / "s.zarr", monkeypatch=monkeypatch) == 75
    assert "[STORE_BUSY]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("fit", "s.zarr", "/proc/nothing/model"), "the folder /proc/nothing cannot be made", 6),
        (("predict", "model", "s.zarr", "picture.png"), "picture.png should end in .nc", 2),
        (("predict", "model", "s.zarr", "f.nc", "--part", "test", "--init", "2016"), "exclude each other", 2),
        (("predict", "model", "s.zarr", "f.nc", "--every", 3), "--every is of use only with --part", 2),
        (("plot", "f.nc", "s.zarr", "map.doc"), "map.doc should end in .png or .pdf or .svg or .gif or .mp4", 2),
        (("plot", "f.nc", "s.zarr", "film.gif", "--lead", "6h"), "film.gif shows all lead times; leave --lead out", 2),
        (("plot", "map.png"), "plot wants FORECAST [TRUTH] OUTPUT, two or three paths, not map.png", 2),
        (("plot", "f.nc", "s.zarr", "t.zarr", "map.png"), "two or three paths, not f.nc s.zarr t.zarr map.png", 2),
        (("plot", "f.nc", "s.zarr"), "s.zarr should end in .png or .pdf or .svg or .gif or .mp4", 2),
        (("plot", "f.nc", "map.png", "--kind", "comparison"), "wants TRUTH: stforecast plot FORECAST TRUTH map.png", 2),
        (("plot", "f.nc", "map.png", "--kind", "anomaly"), "--kind anomaly wants TRUTH", 2),
        (("plot", "f.nc", "s.zarr", "map.png", "--kind", "map"), "is of the forecast alone; leave s.zarr out", 2),
        (("plot", "f.nc", "film.mp4", "--kind", "interval"), "a film shows a map or a comparison; write --kind int", 2),
        (("plot", "f.nc", "map.png", "--lead", "6h", "--lead", "12h"), "one lead time; give --lead once, or --kind", 2),
        (("plot", "f.nc", "map.png", "--kind", "interval", "--winds"), "leave them out with --kind interval", 2),
        (("plot", "f.nc", "map.png"), "there is no forecast at f.nc", 3),
        (("evaluate", "f.nc", "s.zarr", "--curve", "curve.txt"), "curve.txt should end in .png", 2),
        (("evaluate", "f.nc", "s.zarr"), "there is no forecast at f.nc", 3),
        (("evaluate", "f.nc", "s.zarr", "--card", "card.gif"), "card.gif should end in .png", 2),
        (("evaluate", "f.nc", "s.zarr", "--curve", "c.png", "--by", "hour"), "leave --by and --region out", 2),
    ],
)
def test_what_cannot_be_is_said_before_the_work(
    tmp_path: Path, arguments, words: str, status: int, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, monkeypatch=monkeypatch) == status
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_store_is_no_forecast_and_a_damaged_forecast_is_named(tmp_path: Path, raw: Path, monkeypatch, capsys) -> None:
    store = tmp_path / "s.zarr"
    assert run("prepare", raw, store, monkeypatch=monkeypatch) == 0
    assert run("evaluate", store, store, monkeypatch=monkeypatch) == 2
    assert "is a prepared store; a forecast is what stforecast predict writes" in capsys.readouterr().err
    path = write_forecast(make_forecast(make_series(40, shape=(30, 40))), tmp_path / "f.nc")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = bytes(300)
    path.write_bytes(content)
    assert run("evaluate", path, store, monkeypatch=monkeypatch) == 3
    assert "f.nc is damaged" in capsys.readouterr().err


def test_a_preset_is_taken_in_parts_and_a_run_is_gone_on_with(tmp_path: Path, raw: Path, monkeypatch, capsys) -> None:
    assert run("prepare", raw, tmp_path / "s.zarr", monkeypatch=monkeypatch) == 0
    small = ("--hidden-spatial", 4, "--hidden-temporal", 8, "--temporal-layers", 2, "--epochs", 1)
    options = ("--preset", "weather", "--history", 3, "--horizon", 2, "--run", tmp_path / "run", *small)
    for model in ("first", "second"):
        assert run("fit", tmp_path / "s.zarr", tmp_path / model, *options, monkeypatch=monkeypatch) == 0
    weights = [(tmp_path / model / "weights.safetensors").read_bytes() for model in ("first", "second")]
    assert weights[0] == weights[1]
    described = json.loads((tmp_path / "first" / "model.json").read_text())
    assert described["network"]["first_guess"] == "regression"
    assert described["training"]["config"]["area_weighted"] is True
    other = ("--preset", "weather", "--history", 3, "--horizon", 2, "--run", tmp_path / "run", *small, "--seed", 3)
    assert run("fit", tmp_path / "s.zarr", tmp_path / "third", *other, monkeypatch=monkeypatch) == 5
    assert "training seed was 0, now 3" in capsys.readouterr().err


def test_a_model_is_not_fitted_into_a_folder_that_is_there(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "model").mkdir()
    assert run("fit", tmp_path / "s.zarr", tmp_path / "model", monkeypatch=monkeypatch) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb",
    [
        "sample",
        "inspect",
        "prepare",
        "append",
        "validate",
        "fit",
        "predict",
        "models",
        "evaluate",
        "plot",
        "run",
        "status",
    ],
)
def test_each_verb_explains_itself(verb: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run(verb, "--help", monkeypatch=monkeypatch) == 0
    assert "Usage: stforecast" in capsys.readouterr().out


def test_the_installed_command_shows_no_traceback(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("stforecast")), "predict", "nowhere", "nothing", "out.nc"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("stforecast: there is no packaged model 'nowhere', nor a folder of that name; pack")
    assert done.stderr.endswith(" [FILE_MISSING]\n")
    assert done.stderr.count("\n") == 1


def test_packaged_models_are_listed_with_what_they_forecast(monkeypatch, capsys) -> None:
    assert run("models", monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(stf.packaged_models())
    assert "new-york-taxi: inflow (1), outflow (1) on 16x12 (row 0..15 by 1, column 0..11 by 1), 8 steps" in lines[0]


def test_samples_are_listed_as_they_are_written(tmp_path: Path, monkeypatch, capsys) -> None:
    assert run("sample", "traffic", tmp_path / "raw", monkeypatch=monkeypatch) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert written
    assert all(path.is_file() for path in written)


def test_what_cannot_unwind_is_ended_with_its_stacks(tmp_path: Path) -> None:
    """As where a signal falls into the taking of a lock, which nothing releases then."""
    script = tmp_path / "waits.py"
    script.write_text(
        "import threading, time\n"
        "from stforecast import cli\n"
        "cli._GRACE_SECONDS = 0.5\n"
        "lock = threading.Lock()\n"
        "with cli._unwound():\n"
        "    try:\n"
        "        lock.acquire()\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        lock.acquire()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "waits.py" in told


def test_ctrl_c_while_the_command_line_loads_is_answered_as_later() -> None:
    pressed = (
        "import sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'stforecast.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Pressed())\n"
        "from stforecast.__main__ import main\n"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", pressed], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stforecast: interrupted [INTERRUPTED]\n")
    told = subprocess.run([sys.executable, "-m", "stforecast", "--help"], capture_output=True, text=True, check=False)
    assert told.returncode == 0
    assert "Usage: stforecast" in told.stdout
