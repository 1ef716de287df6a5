"""Animations of a forecast: one frame a lead time, drawn and written one after another."""

import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import rich.progress
import xarray as xr
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.GifImagePlugin import getdata
from rich.console import Console

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import check_writable, replacing, unwritten
from stforecast.grid import Grid
from stforecast.plot.canvas import canvas_of, explain_cells
from stforecast.plot.colours import Colours
from stforecast.plot.context import Surroundings
from stforecast.plot.fields import Instant, Values, field_of, frame_of, truth_of, values_of
from stforecast.plot.overlays import Winds, forecast_winds, note_on_isolines, strength_of, true_winds, wind_frames
from stforecast.plot.sheets import Sheet
from stforecast.plot.words import name_of, shown, when

Pixels = npt.NDArray[np.uint8]
MOVIES = (".gif", ".mp4")


def animation(
    forecast: xr.Dataset,
    path: str | Path,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    truth: xr.Dataset | None = None,
    level: float | None = None,
    projection: Any = None,
    context: Surroundings = None,
    winds: bool = False,
    seconds_per_frame: float = 0.5,
    progress: bool = False,
) -> Path:
    """The path of a film of one forecast, one frame a lead time, which is written whole or not at all.

    All frames share one colour scale, and each tells its init, lead and valid time. The forecast is read twice, one
    frame at a time, first for the range of its values; no frame is kept, so memory does not grow with their number.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        path: ends in .gif, which needs nothing else, or in .mp4, which needs ffmpeg.
        variable: the first by default.
        init_time: the last by default.
        truth: a series (time, [level,] Y, X) on the forecast's cells; it and the error are then shown beside.
        level: the first by default, where the variable has levels.
        projection: of a map, any of `cartopy.crs`; by default one that suits the domain.
        context: streets or water to draw over the cells, as in `forecast_map`.
        winds: whether to draw arrows of the wind, as in `forecast_map`, in one measure for all frames.
        seconds_per_frame: how long each frame stands; a GIF counts in hundredths.
        progress: whether to draw a progress bar, on stderr.

    Raises:
        StforecastError: as `forecast_map`, or with a truth as `comparison`, for any of the lead times; ARGUMENT for
            another ending, a time that is not between 0.02 and 60 seconds, or where ffmpeg is wanted and not there;
            PERMISSION, DISK_FULL or IO_ERROR if it cannot be written, and what was at `path` before stays.
    """
    path = Path(path)
    if path.suffix.lower() not in MOVIES:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"animations are written as {' or '.join(MOVIES)}: {path} should end in one of these"
        )
    program = _ffmpeg() if path.suffix.lower() == ".mp4" else None
    if not 0.02 <= seconds_per_frame <= 60:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"seconds_per_frame is {seconds_per_frame:g}; a frame stands for 0.02 to 60 seconds"
        )
    check_writable(path.parent)
    field = field_of(forecast, variable, level)
    frames = [frame_of(field, init_time, lead) for lead in field["lead_time"].to_numpy()]
    film = _Film(forecast, frames, truth, projection, context, winds=winds)
    steps = _told(range(len(frames)), f"drawing {path.name}") if progress else iter(range(len(frames)))
    try:
        with replacing(path) as temporary:
            pictures = (film.draw(number) for number in steps)
            if program is None:
                _write_gif(temporary, pictures, film.palette, seconds_per_frame)
            else:
                _write_mp4(temporary, pictures, program, seconds_per_frame)
    except OSError as error:
        raise unwritten(error, path) from error
    return path


def _told(numbers: Sequence[int], words: str) -> Iterator[int]:
    yield from rich.progress.track(numbers, words, console=Console(stderr=True))


class _Film:
    """A sheet that shows one lead time after another, always of the same size and with everything in its place."""

    def __init__(
        self,
        forecast: xr.Dataset,
        frames: Sequence[xr.DataArray],
        truth: xr.Dataset | None,
        projection: Any = None,
        context: Surroundings = None,
        *,
        winds: bool = False,
    ) -> None:
        self._frames, self._truth, self._grid = frames, truth, Grid.of(forecast)
        canvas, first = canvas_of(forecast, self._grid, projection, context), frames[0]
        self._blowing = [wind_frames(forecast, frame) for frame in frames] if winds else []
        field, error, has_gaps = self._ranges()
        strength = max((strength_of(*self._winds(number)) for number in range(len(self._blowing))), default=1.0)
        longest: np.timedelta64 = np.max([frame["lead_time"].to_numpy() for frame in frames])
        shared = Colours.of(first, field)
        self.palette = [shared.name]
        if truth is None:
            self._sheet = Sheet(
                canvas, self._grid, [f"Forecast: {name_of(first)}"], [shared], longest=longest, strength=strength
            )
        else:
            about_zero = Colours.about_zero("RdBu_r", error)
            self.palette.append(about_zero.name)
            self._sheet = Sheet.compared(canvas, self._grid, shared, about_zero, longest=longest, strength=strength)
        self._show(len(frames) - 1)  # the words of the longest lead time need the most room
        if winds:
            self._sheet.add_key(self._blowing[0][0])
        if truth is None:
            self._sheet.add_bar(first)
        else:
            self._sheet.add_bars_of_comparison(first)
        self._sheet.name_all(first)
        gaps = np.array([np.nan] if has_gaps else [])
        explain_cells(self._sheet.figure, canvas, gaps, said=[note_on_isolines(first)])
        self._box = _settle(self._sheet.figure)

    def draw(self, number: int) -> Pixels:
        """The picture (height, width, 3) of one lead time."""
        self._show(number)
        return _pixels(self._sheet.figure)[self._box]

    def _show(self, number: int) -> None:
        frame = self._frames[number]
        predicted, observed = self._read(frame)
        winds = self._winds(number) if self._blowing else None
        if observed is None:
            self._sheet.show(0, frame, predicted, lined=predicted, winds=None if winds is None else winds[0])
        else:
            self._sheet.compare(frame, predicted, observed, winds)

    def _winds(self, number: int) -> list[Winds]:
        """Of the forecast, and of the truth where there is one."""
        blowing = self._blowing[number]
        true = [] if self._truth is None else [true_winds(*blowing, self._truth, self._grid)]
        return [forecast_winds(*blowing), *true]

    def _read(self, frame: xr.DataArray) -> tuple[Values, Values | None]:
        predicted = values_of(frame, f"the forecast {when(frame)}")
        if self._truth is None:
            return predicted, None
        what = f"the truth at {shown(frame['valid_time'])}"
        return predicted, values_of(truth_of(frame, self._truth, self._grid), what)

    def _ranges(self) -> tuple[Values, Values, bool]:
        """The least and the greatest value of the fields and of the error, and whether some cell has none."""
        fields, errors, has_gaps = [], [np.array([0.0])], False
        for frame in self._frames:
            predicted, observed = self._read(frame)
            shown_fields = [predicted] if observed is None else [predicted, observed]
            fields += [_extremes(values) for values in shown_fields]
            has_gaps = has_gaps or any(np.isnan(values).any() for values in shown_fields)
            if observed is not None and not np.isnan(predicted - observed).all():
                errors.append(_extremes(predicted - observed))
        return np.concatenate(fields), np.concatenate(errors), has_gaps


def _extremes(values: Values) -> Values:
    return np.array([np.nanmin(values), np.nanmax(values)])


_DPI = 100
_MARGIN = 12  # pixels


def _settle(figure: Figure) -> tuple[slice, slice]:
    """Fix every part in its place, so that nothing trembles, and find the pixels around all that is drawn."""
    figure.set_dpi(_DPI)
    figure.canvas.draw()
    figure.set_layout_engine("none")
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    height, width = _pixels(figure).shape[:2]
    left, right = max(int(box.x0) - _MARGIN, 0), min(int(box.x1) + _MARGIN, width)
    top, bottom = max(height - int(box.y1) - _MARGIN, 0), min(height - int(box.y0) + _MARGIN, height)
    # Films have an even number of rows and columns.
    return slice(top, bottom - (bottom - top) % 2), slice(left, right - (right - left) % 2)


def _pixels(figure: Figure) -> Pixels:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


# GIF.


def _write_gif(path: Path, pictures: Iterator[Pixels], palette: Sequence[str], seconds: float) -> None:
    """Write pictures as they come: Pillow's own writer of several frames would keep all of them."""
    reference, before = _palette_image(palette), None
    with path.open("wb") as stream:
        for picture in pictures:
            if before is None:
                _write_gif_head(stream, picture, reference)
            indices = np.array(Image.fromarray(picture).quantize(palette=reference, dither=Image.Dither.NONE))
            indices[indices == _TRANSPARENT] = 0  # both are black
            # What is as it was is transparent, and takes no room.
            changed = indices if before is None else np.where(indices == before, _TRANSPARENT, indices)
            before = indices
            image = Image.fromarray(changed)
            image.putpalette(reference.getpalette() or [])
            duration = round(100 * seconds) * 10  # milliseconds, in the hundredths that GIF counts
            for part in getdata(image, duration=duration, disposal=1, transparency=_TRANSPARENT):
                stream.write(part)
        stream.write(b";")


_TRANSPARENT = 255


def _palette_image(names: Sequence[str]) -> Image.Image:
    """An image with 255 colours for all frames alike: greys for words and lines, the others of the colour maps."""
    greys = np.linspace(0, 255, _GREYS)[:, None].repeat(3, axis=1)
    count = (_TRANSPARENT - _GREYS) // len(names)
    maps = [255 * colormaps[name](np.linspace(0, 1, count))[:, :3] for name in names]
    colours = np.concatenate([greys, *maps]).round().astype(np.uint8)
    reference = Image.new("P", (1, 1))
    reference.putpalette(np.pad(colours, ((0, 256 - len(colours)), (0, 0))).tobytes())  # all others are black
    return reference


_GREYS = 33


def _write_gif_head(stream: IO[bytes], picture: Pixels, reference: Image.Image) -> None:
    """The size, the palette of all frames, and that they begin anew after the last one."""
    height, width = picture.shape[:2]
    stream.write(struct.pack("<6sHHBBB", b"GIF89a", width, height, 0xF7, 0, 0))
    stream.write(bytes(reference.getpalette() or []))
    stream.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")


# MP4.


def _write_mp4(path: Path, pictures: Iterator[Pixels], program: str, seconds: float) -> None:
    first = next(pictures)
    source = f"-y -f rawvideo -pix_fmt rgb24 -s {first.shape[1]}x{first.shape[0]} -r {1 / seconds:.6f} -i -"
    # Players expect an ordinary rate and this layout of colours; repeated frames cost next to nothing.
    film = "-an -c:v libx264 -pix_fmt yuv420p -r 25 -movflags +faststart"
    command = [program, "-loglevel", "error", *source.split(), *film.split(), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as writer:  # noqa: S603
        assert writer.stdin is not None
        assert writer.stderr is not None
        try:
            for picture in chain([first], pictures):
                writer.stdin.write(picture.tobytes())
            writer.stdin.close()
        except BrokenPipeError:  # it has ended, and says why
            with suppress(BrokenPipeError):
                writer.stdin.close()
        except BaseException:
            writer.kill()
            raise
        said = writer.stderr.read().decode(errors="replace").strip()
    if writer.returncode != 0:
        words = said.splitlines()[-1] if said else "it gave no reason"
        raise StforecastError(ErrorKind.IO_ERROR, f"ffmpeg did not write {path.name}: {words}; write a .gif instead")


def _ffmpeg() -> str:
    """The program that writes films: the system's, else the one that the extra brings."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "an .mp4 is written by ffmpeg, which is not there; install it: pip install 'stforecast[video]', or write a "
            ".gif, which needs nothing",
        ) from error
