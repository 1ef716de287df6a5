"""Coverage of the packaged models' prediction intervals: `python pipelines/coverage.py` writes docs/intervals.md."""

import os
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from pretrain import ORIGINS, Origin
from rich.console import Console

import stforecast as stf
from stforecast.pretrained import packaged_model
from stforecast.verification import coverage

PAGE = Path("docs/intervals.md")
BEHIND = "<!-- what pipelines/coverage.py writes -->"
SHARES = (0.5, 0.8, 0.9, 0.95)


def main() -> None:
    """Write how often truth lies inside in the test periods."""
    console, data = Console(), Path(os.environ.get("STFORECAST_DATA") or ".")
    for origin in ORIGINS.values():
        if not (data / origin.path).exists():
            sys.exit(f"{data / origin.path} is not there; set STFORECAST_DATA to the folder of the real series")
    sections = [_section(name, origin, data, console) for name, origin in ORIGINS.items()]
    text, _, _ = PAGE.read_text().partition(BEHIND)
    PAGE.write_text(f"{text}{BEHIND}\n\n" + "\n".join(sections))
    console.print(f"wrote {PAGE}")


def _section(name: str, origin: Origin, data: Path, console: Console) -> str:
    console.rule(name)
    truth, forecaster = stf.open_dataset(data / origin.path, **origin.options).load(), packaged_model(name)
    assert forecaster.calibration is not None
    init_times = forecaster.init_times(truth, part="test")
    forecasts = {
        share: stf.predict(truth, forecaster, init_times=init_times, interval=share, refuse="nothing")
        for share in SHARES
    }
    by = "hour" if origin.preset == "traffic" else "season"
    split, forecast = forecaster.split, forecasts[0.9]
    units = next(iter(forecast.data_vars.values())).attrs["units"]
    names = [str(name) for name in coverage(forecast, truth).data_vars]
    head = (
        f"## {name}\n\n{origin.title}: training to {split.train[1]}, validation to "
        f"{split.validation[1]}, test to {split.test[1]}; {len(init_times)} init times tested, calibrated on "
        f"{forecaster.calibration.count}. "
        + ("Mean of inflow and outflow. " if len(names) > 1 else "")
        + f"Coverage of the 0.9 interval in per cent, width and interval score in {units}.\n"
    )
    whole = coverage(forecast, truth).to_array().mean("variable")
    grouped = coverage(forecast, truth, by=[by]).to_array().mean("variable").sel(measure="coverage")
    if by == "hour":
        grouped = grouped.groupby_bins(
            "hour", range(-1, 24, 6), labels=["0 to 5 h", "6 to 11 h", "12 to 17 h", "18 to 23 h"]
        )
        grouped = grouped.mean().rename(hour_bins="season")
    columns = {"all": whole.sel(measure="coverage")}
    parts = {str(label): grouped.sel(season=label) for label in grouped["season"].to_numpy()}
    columns |= {label: one for label, one in parts.items() if one.notnull().any()}
    rows = [["lead time", *columns, "width", "interval score"]]
    for number, lead in enumerate(forecast["lead_time"].to_numpy()):
        shares = [f"{100 * float(one[number]):.1f}" for one in columns.values()]
        others = [f"{float(whole.sel(measure=measure)[number]):.4g}" for measure in ("width", "interval_score")]
        rows.append([f"{lead / np.timedelta64(1, 'h'):g} h", *shares, *others])
    mean = [f"{100 * float(one.mean()):.1f}" for one in columns.values()]
    rows.append(["all", *mean, *(f"{float(whole.sel(measure=m).mean()):.4g}" for m in ("width", "interval_score"))])
    asked = [["asked for", *(f"{share:.0%}" for share in SHARES)]]
    asked.append(["came", *(f"{100 * _mean_coverage(one, truth):.1f} %" for one in forecasts.values())])
    cells = ", ".join(f"{100 * one:.1f}" for one in _by_cell(forecast, truth, names))
    told = f"\nOf single cells over all lead times, the 5th, 50th and 95th percentile of coverage: {cells} %.\n"
    return f"{head}\n{_table(rows)}\n\n{_table(asked)}\n{told}"


def _mean_coverage(forecast: xr.Dataset, truth: xr.Dataset) -> float:
    return float(coverage(forecast, truth).sel(measure="coverage").to_array().mean())


def _by_cell(forecast: xr.Dataset, truth: xr.Dataset, names: list[str]) -> list[float]:
    """Percentiles over the cells of the coverage of each."""
    rows = np.searchsorted(truth["time"].to_numpy(), forecast["valid_time"].to_numpy())
    shares = []
    for name in names:
        actual, room = truth[name].to_numpy()[rows], 1e-6 * float(abs(truth[name]).max())
        low, high = (forecast[f"{name}_{bound}"].to_numpy() for bound in ("lower", "upper"))
        shares.append(((actual >= low - room) & (actual <= high + room)).mean(axis=(0, 1)).ravel())
    return np.percentile(np.concatenate(shares), [5, 50, 95]).tolist()


def _table(rows: list[list[str]]) -> str:
    first, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, "|" + " ---: |" * len(rows[0]), *others])


if __name__ == "__main__":
    main()
