import gc
import os
import resource
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series
from PIL import Image
from test_plot import forecast_of, make_region, mesh_of, with_bounds

from stforecast import plot
from stforecast.errors import ErrorKind, StforecastError
from stforecast.plot import movies


def make_forecast(horizon: int = 4) -> tuple[xr.Dataset, xr.Dataset]:
    series = with_bounds(make_city(horizon + 2))
    return forecast_of(series, inits=(0,), horizon=horizon), series


def frames_of(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """The pictures of a GIF, (height, width, 3) each, and their durations in milliseconds."""
    pictures, durations = [], []
    with Image.open(path) as film:
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
            pictures.append(np.asarray(film.convert("RGB")).astype(int))
    return pictures, durations


def film_of(forecast: xr.Dataset, truth: xr.Dataset | None = None) -> movies._Film:
    name = next(iter(forecast.data_vars))
    return movies._Film(forecast, [forecast[name][-1, lead] for lead in range(forecast.sizes["lead_time"])], truth)


def test_a_gif_has_a_frame_for_each_lead_time_and_begins_anew(tmp_path: Path) -> None:
    forecast, truth = make_forecast()
    for told, seconds in ((None, 0.5), (truth, 0.25)):
        path = plot.animation(forecast, tmp_path / "new" / "film.gif", truth=told, seconds_per_frame=seconds)
        pictures, durations = frames_of(path)
        assert len(pictures) == 4
        assert durations == [round(1000 * seconds)] * 4
        with Image.open(path) as film:
            assert film.info["loop"] == 0
        assert list(path.parent.iterdir()) == [path]


def test_the_frames_of_a_gif_are_what_was_drawn(tmp_path: Path) -> None:
    forecast, truth = make_forecast()
    film = film_of(forecast, truth)
    pictures, _ = frames_of(plot.animation(forecast, tmp_path / "film.gif", truth=truth))
    for number, picture in enumerate(pictures):
        apart = np.abs(picture - film.draw(number))
        assert apart.mean() < 1.5  # of 255: a palette of 255 colours
        assert np.quantile(apart, 0.99) <= 20
    assert all((first != second).any() for first, second in pairwise(pictures))


def test_each_frame_tells_init_lead_and_valid_time_on_one_scale() -> None:
    forecast, truth = make_forecast()
    film = film_of(forecast, truth)
    low = min(forecast["inflow"].min(), truth["inflow"][1:5].min())
    high = max(forecast["inflow"].max(), truth["inflow"][1:5].max())
    for number in range(4):
        picture = film.draw(number)
        assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
        first, second, error = film._sheet.panel
        minutes = 30 * (number + 1)
        hour = f"0{minutes // 60}:{minutes % 60:02d}"
        assert first.get_title() == (
            f"Forecast [1]\nvalid 2016-01-04 {hour} America/New_York\ninit 2016-01-04 00:00, lead {minutes} min"
        )
        assert mesh_of(first).get_clim() == mesh_of(second).get_clim() == (min(low, 0), high)
        assert mesh_of(error).get_clim() == (-4, 4)
        np.testing.assert_allclose(mesh_of(error).get_array(), number + 1, rtol=1e-5)


@pytest.mark.parametrize("series", [make_series(6, shape=(8, 16)), make_region()], ids=["globe", "region"])
def test_maps_are_filmed_as_well(series: xr.Dataset, tmp_path: Path) -> None:
    pictures, _ = frames_of(plot.animation(forecast_of(series), tmp_path / "film.gif"))
    assert len(pictures) == 3


def test_isolines_are_drawn_anew_in_each_frame() -> None:
    film = film_of(forecast_of(make_series(8, shape=(8, 16)).rename(t2m="z"), horizon=3))
    (axes,) = film._sheet.panel
    counts, levels = [], []
    for number in (0, 1, 2, 1, 0):
        film.draw(number)
        (lines,) = (artist for artist in axes.collections if hasattr(artist, "labelTexts"))
        assert len(axes.texts) == len(lines.labelTexts) > 0
        counts.append(len(axes.texts))
        levels.append(tuple(lines.levels))
    assert counts == counts[::-1]
    assert len(set(levels)) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    def peak(horizon: int) -> int:
        forecast, _ = make_forecast(horizon)
        gc.collect()
        tracemalloc.start()
        plot.animation(forecast, tmp_path / "film.gif")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)  # what is loaded once
    with Image.open(tmp_path / "film.gif") as film:
        picture = 3 * film.width * film.height
    assert peak(24) - peak(4) < 5 * picture  # of the twenty more


def test_progress_is_told_on_stderr_by_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forecast, _ = make_forecast(2)
    plot.animation(forecast, tmp_path / "film.gif")
    assert capsys.readouterr() == ("", "")
    plot.animation(forecast, tmp_path / "film.gif", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "drawing film.gif" in err


def test_films_that_cannot_be_made_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    forecast, truth = make_forecast()
    empty = forecast.copy(deep=True)
    empty["inflow"][0, 1] = np.nan
    for given, name, keywords, kind, words in (
        (forecast, "film.avi", {}, ErrorKind.ARGUMENT, r"written as \.gif or \.mp4"),
        (forecast, "film.mp4", {}, ErrorKind.ARGUMENT, r"pip install 'stforecast\[video\]'"),
        (forecast, "film.gif", {"seconds_per_frame": 0}, ErrorKind.ARGUMENT, "stands for 0.02 to 60 seconds"),
        (forecast, "film.gif", {"seconds_per_frame": np.nan}, ErrorKind.ARGUMENT, "seconds_per_frame is nan"),
        (empty, "film.gif", {}, ErrorKind.NAN, "at lead 1 h is NaN everywhere|at lead 60 min is NaN everywhere"),
        (forecast, "film.gif", {"truth": truth.isel(time=slice(0, 3))}, ErrorKind.TIME_RANGE, "which the truth lacks"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            plot.animation(given, tmp_path / name, **keywords)
        assert refused.value.kind == kind
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def little_room() -> Iterator[None]:
    """Files cannot grow beyond four kilobytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_film_that_was_there(tmp_path: Path, little_room: None) -> None:
    path = tmp_path / "film.gif"
    path.write_bytes(b"old")
    with pytest.raises(StforecastError, match="what was there before is intact") as refused:
        plot.animation(make_forecast()[0], path)
    assert refused.value.kind == ErrorKind.DISK_FULL
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def give_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_ffmpeg_gets_each_picture_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    give_ffmpeg(tmp_path / "bin", monkeypatch, f'echo "$@" > {tmp_path}/asked; for last; do :; done; cat > "$last"')
    forecast, _ = make_forecast()
    path = plot.animation(forecast, tmp_path / "film.mp4", seconds_per_frame=0.25)
    film = film_of(forecast)
    assert path.read_bytes() == b"".join(film.draw(number).tobytes() for number in range(4))
    height, width, _ = film.draw(0).shape
    assert f"-s {width}x{height} -r 4.000000" in (tmp_path / "asked").read_text()


def test_what_ffmpeg_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    give_ffmpeg(tmp_path / "bin", monkeypatch, "echo no such codec >&2; exit 1")
    with pytest.raises(StforecastError, match=r"did not write .*: no such codec; write a \.gif instead") as refused:
        plot.animation(make_forecast()[0], tmp_path / "film.mp4")
    assert refused.value.kind == ErrorKind.IO_ERROR
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_an_mp4_has_the_seconds_of_its_frames(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra video is not installed")
    path = plot.animation(make_forecast()[0], tmp_path / "film.mp4", seconds_per_frame=0.5)
    _, seconds = ffmpeg.count_frames_and_secs(str(path))
    assert seconds == pytest.approx(2, abs=0.1)
