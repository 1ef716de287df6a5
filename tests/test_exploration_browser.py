"""The page moves in a browser without a network and without Python: sliders, clicks, variables, the mouse."""

import html
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from browser import Browser, chromium
from factory import make_city
from matplotlib.colors import to_rgb
from PIL import Image
from test_exploration import bounded
from test_plot import forecast_of, make_region, with_bounds

import stforecast as stf

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here to open the page with"),
    pytest.mark.slow,
]

READY = "window.stforecast"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def shown(browser: Browser, what: str) -> np.ndarray:
    """The values that a map draws, (height, width), NaN where it draws none."""
    code = f"Array.from(stforecast.models.{what}_source.data.image[0], (v) => isFinite(v) ? v : null)"
    shape = browser.run(f"stforecast.models.{what}_source.data.image[0].shape")
    return np.array(browser.run(code), dtype=float).reshape(shape)


def course(browser: Browser, name: str) -> np.ndarray:
    """The line of the time series, (x or y, point)."""
    code = f"['x', 'y'].map((k) => Array.from(stforecast.models.course_{name}.data[k], (v) => isFinite(v) ? v : null))"
    return np.array(browser.run(code), dtype=float)


def place_of(browser: Browser, what: str, x: float, y: float) -> tuple[float, float]:
    """Where a point of a map's plane is in the window."""
    code = f"""(() => {{
        const view = Bokeh.index.find_one_by_id(stforecast.models.{what}_map.id)
        const box = view.canvas_view.el.getBoundingClientRect()
        return [box.left + view.frame.x_scale.compute({x}), box.top + view.frame.y_scale.compute({y})]
    }})()"""
    across, down = browser.run(code)
    return across, down


def slide(browser: Browser, name: str, position: int) -> None:
    """Drag a slider to a position."""
    code = f"""(() => {{
        const model = stforecast.models.{name}
        const root = Bokeh.index.find_one_by_id(model.id).shadow_el
        const handle = root.querySelector(".noUi-handle").getBoundingClientRect()
        const bar = root.querySelector(".noUi-base").getBoundingClientRect()
        return [(handle.left + handle.right) / 2, (handle.top + handle.bottom) / 2,
            bar.left + bar.width * ({position} - model.start) / (model.end - model.start)]
    }})()"""
    x, y, goal = browser.run(code)
    browser.drag((x, y), ((x + goal) / 2, y), (goal, y))
    browser.wait(f"stforecast.models.{name}.value === {position}")
    browser.run("stforecast.drawn()")


def text_of(browser: Browser, name: str) -> str:
    return str(browser.run(f"stforecast.models.{name}.text"))


def test_sliders_and_clicks_draw_what_the_forecast_holds(browser: Browser, tmp_path: Path) -> None:
    series = make_region(frames=14).isel(lat=slice(4, None))  # a rectangle, so that a pixel is a cell
    forecast = bounded(forecast_of(series, inits=(3, 5, 6), horizon=4))
    path = stf.explore(forecast, series).save(tmp_path / "view.html")
    browser.open(path, READY)
    upwards = forecast["air"].isel(lat=slice(None, None, -1))

    def check(init: int, lead: int, latitude: float, longitude: float) -> None:
        frame = upwards[init, lead]
        truth = series["air"].sel(time=frame["valid_time"], lat=frame["lat"])
        for what, expected in (("forecast", frame), ("truth", truth), ("error", frame - truth.drop_vars("time"))):
            np.testing.assert_allclose(shown(browser, what), expected, atol=0.011)
        own = forecast["air"][init].sel(lat=latitude, lon=longitude)
        x, y = course(browser, "forecast")
        np.testing.assert_array_equal(x, own["valid_time"].astype("datetime64[ms]").astype(int))
        np.testing.assert_allclose(y, own, atol=0.006)
        at = np.datetime_as_string(own["valid_time"].to_numpy()[lead], unit="m").replace("T", " ")
        assert f"valid {at} UTC" in text_of(browser, "heading")
        assert browser.run("stforecast.models.valid_line.location") == x[lead]

    check(2, 0, 25, 270)  # the last init time, the first lead time, the middle cell
    before = browser.picture()
    slide(browser, "lead", 3)
    check(2, 3, 25, 270)
    assert text_of(browser, "lead_words") == "lead 24 h"
    slide(browser, "init", 0)
    check(0, 3, 25, 270)
    assert browser.picture() != before
    for what, latitude, longitude in (("forecast", 15, 200), ("truth", 35, 330), ("error", 25, 290)):
        browser.drag(place_of(browser, what, longitude + 3, latitude - 3))
        browser.wait(f"stforecast.models.course.title.text.startsWith('at {latitude}°N, {360 - longitude}°W')")
        browser.run("stforecast.drawn()")
        check(0, 3, latitude, longitude)
        seen = series["air"].sel(lat=latitude, lon=longitude)[:8]
        x, y = course(browser, "truth")
        np.testing.assert_array_equal(x, seen["time"].astype("datetime64[ms]").astype(int))
        np.testing.assert_allclose(y, seen, atol=0.006)
        low, high = (browser.run(f"Array.from(stforecast.models.course_band.data.{edge})") for edge in ("low", "high"))
        own = forecast["air"][0].sel(lat=latitude, lon=longitude)
        np.testing.assert_allclose((low, high), (own - 1, own + 2), atol=0.006)
    browser.move(place_of(browser, "truth", 240, 35))
    value = float(forecast["air"][0, 3].sel(lat=35, lon=240))
    browser.wait("stforecast.models.readout.text.startsWith('35°N, 120°W: forecast ')")
    assert f"forecast {value:.2f} degK, truth {value - 4:.2f} degK, error 4.00 degK" in text_of(browser, "readout")
    assert browser.requests == [path.as_uri()]
    assert browser.faults == []


def test_the_picture_has_the_colours_of_the_values(browser: Browser, tmp_path: Path) -> None:
    series = make_region(frames=6).isel(lat=slice(4, None))
    forecast = forecast_of(series)
    forecast["air"][-1, 0, 1, 4] = np.nan
    browser.open(stf.explore(forecast).save(tmp_path / "view.html"), READY)
    pixels = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("RGB"))
    palette, low, high = (
        browser.run(f"stforecast.models.forecast_colours.{name}") for name in ("palette", "low", "high")
    )
    frame = forecast["air"][-1, 0]
    for latitude, longitude in ((25, 210), (25, 310), (15, 220), (35, 230)):  # in the open sea
        x, y = place_of(browser, "forecast", longitude + 2, latitude + 2)
        value = float(frame.sel(lat=latitude, lon=longitude))
        number = min(int((value - low) / (high - low) * 256), 255)
        near = [to_rgb(palette[min(max(number + step, 0), 255)]) for step in (-1, 0, 1)]
        found = pixels[int(y), int(x)] / 255
        assert min(np.abs(found - colour).max() for colour in near) < 2 / 255
    x, y = place_of(browser, "forecast", 242, 27)
    assert pixels[int(y), int(x)].tolist() == [0xB8, 0xB8, 0xB8]  # no value
    assert browser.faults == []


def city() -> xr.Dataset:
    made = with_bounds(make_city(30, shape=(8, 6)))
    made["outflow"].attrs["long_name"] = "<b>out</b> & away"
    return made


def test_variables_and_play_and_a_round_map_move_too(browser: Browser, tmp_path: Path) -> None:
    series = city()
    forecast = forecast_of(series, inits=(4,), horizon=5)
    browser.open(stf.explore(forecast, series.isel(time=slice(0, 7))).save(tmp_path / "view.html"), READY)
    assert browser.run("stforecast.models.init === undefined")  # one init time needs no slider
    choose = """(() => {
        const box = Bokeh.index.find_one_by_id(stforecast.models.channel.id).shadow_el.querySelector("select")
        box.value = "<b>out</b> & away"
        box.dispatchEvent(new Event("change"))
        return stforecast.drawn()
    })()"""
    browser.run(choose)
    np.testing.assert_allclose(shown(browser, "forecast"), forecast["outflow"][0, 0, ::-1], atol=0.06)
    assert text_of(browser, "heading").startswith("<b>&lt;b>out&lt;/b> &amp; away</b>")
    slide(browser, "lead", 4)
    assert np.isnan(shown(browser, "truth")).all()  # it ends before
    assert browser.run("stforecast.models.truth_map.title.text") == "Truth [1]: no truth of this time"
    button = "Bokeh.index.find_one_by_id(stforecast.models.play.id).shadow_el.querySelector('button').click()"
    browser.run(button)
    browser.wait("stforecast.models.lead.value === 1")  # after the last comes the first
    browser.run(button)
    browser.wait(f"stforecast.models.lead.value === {browser.run('stforecast.models.lead.value')}")
    assert browser.faults == []


def test_a_click_on_a_bent_map_finds_the_cell(browser: Browser, tmp_path: Path) -> None:
    series = make_region(frames=6)
    forecast = forecast_of(series)
    browser.open(stf.explore(forecast).save(tmp_path / "view.html"), READY)
    x, y = browser.run(
        "(() => { const s = stforecast.models.place.data; return [s.x[0], s.y[0]] })()"
    )  # the middle cell, in the projection
    browser.drag(place_of(browser, "forecast", x - 2.2e6, y - 0.4e6))
    browser.wait("!stforecast.models.course.title.text.startsWith('at 45°N, 90°W')")
    browser.run("stforecast.drawn()")
    row, column = divmod(browser.run("stforecast.state.cell"), series.sizes["lon"])
    assert series["lon"][column] < 265
    np.testing.assert_allclose(course(browser, "forecast")[1], forecast["air"][-1, :, row, column], atol=0.006)
    browser.drag(place_of(browser, "forecast", x - 4.5e6, y + 3e6))  # beyond the edge there is no cell
    browser.run("stforecast.drawn()")
    assert divmod(browser.run("stforecast.state.cell"), series.sizes["lon"]) == (row, column)
    assert browser.faults == []


def test_a_notebook_shows_it_in_a_frame(browser: Browser, tmp_path: Path) -> None:
    view = stf.explore(forecast_of(city()))
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><html><body>{html.escape('In [1]')}{view._repr_html_()}</body></html>")
    browser.open(page, "document.querySelector('iframe')?.contentWindow.stforecast")
    height = browser.run("document.querySelector('iframe').contentDocument.documentElement.scrollHeight")
    assert height <= view.height + 1
    assert browser.faults == []
