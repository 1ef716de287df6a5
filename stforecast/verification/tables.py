"""Scores as Markdown, and score cards: how much better than a reference a forecast is, and whether that is chance."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import show_step
from stforecast.verification.metrics import metric_of, units_of

_SCORED = ("source", "lead_time")


def score_table(scores: xr.Dataset, *, metric: str = "rmse") -> str:
    """Scores as Markdown: for each variable and level a table with a row for each lead time, a column for each source.

    Regions, seasons and hours have tables of their own as well.

    Args:
        scores: from `evaluate`.
        metric: one of those in the scores.

    Raises:
        StforecastError: ARGUMENT for another metric.

    Examples:
        >>> import numpy as np
        >>> import pandas as pd
        >>> import stforecast as stf
        >>> frames = np.arange(8.0)[:, None, None] + np.full((2, 3), 280.0)
        >>> series = xr.Dataset(
        ...     {"t2m": (("time", "lat", "lon"), frames, {"units": "K"})},
        ...     coords={"time": pd.date_range("2020", periods=8), "lat": [50.0, 40.0], "lon": [0.0, 10.0, 20.0]},
        ... )
        >>> forecast = stf.baselines.Persistence().predict(series, init_times=series["time"][:4], horizon=2)
        >>> print(score_table(stf.evaluate(forecast, series)))
        t2m (K), rmse
        <BLANKLINE>
        | lead time | forecast | init times |
        | --------: | -------: | ---------: |
        |       1 d |    1.000 |          4 |
        |       2 d |    2.000 |          4 |
    """
    _check_metric(scores, metric)
    tables = []
    for name, variable in scores.sel(metric=metric).data_vars.items():
        title = f"{name} ({units_of(metric, variable.attrs['units'])}), {metric}"
        tables += [_table(", ".join([title, *words]), one) for words, one in _each(variable)]
    return "\n\n".join(tables)


def _check_metric(scores: xr.Dataset, metric: str) -> None:
    known = scores["metric"].to_numpy().tolist()
    if metric not in known:
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown metric {metric!r}; there are {', '.join(known)}")


def _each(variable: xr.DataArray) -> Iterator[tuple[list[str], xr.DataArray]]:
    """The scores of each level, region, season and hour, with what they are of in words."""
    extra = [dim for dim in variable.dims if dim not in _SCORED]
    for places in product(*(range(variable.sizes[dim]) for dim in extra)):
        one = variable.isel(dict(zip(extra, places, strict=True)))
        yield [_say(str(dim), one[dim].item()) for dim in extra], one


def _say(dim: str, label: Any) -> str:
    """Where scores are of: level 850, hour 6, but the names of regions and seasons by themselves."""
    return f"{dim} {label:g}" if isinstance(label, int | float) else str(label)


def _table(title: str, values: xr.DataArray) -> str:
    values = values.transpose("lead_time", "source")
    largest = np.nanmax(np.abs(values.to_numpy()), initial=0.0, where=np.isfinite(values.to_numpy()))
    decimals = int(np.clip(3 - np.floor(np.log10(largest)), 0, 9)) if largest > 0 else 3
    header = ["lead time", *map(str, values["source"].to_numpy()), "init times"]
    rows = [
        [show_step(row["lead_time"].to_numpy()), *(f"{value:.{decimals}f}" for value in row.to_numpy()), f"{size}"]
        for row, size in zip(values, values["sample_size"].to_numpy(), strict=True)
    ]
    return _markdown(title, header, rows)


def _markdown(title: str, header: list[str], rows: list[list[str]], *, words: int = 0) -> str:
    """A table whose cells are set flush right, but the first so many columns flush left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":".ljust(width, "-") if at < words else ":".rjust(width, "-") for at, width in enumerate(widths)]
    lines = [
        " | ".join(
            cell.ljust(width) if at < words else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, rule, *rows)
    ]
    return "\n".join([title, "", *(f"| {line} |" for line in lines)])


def score_card(scores: xr.Dataset, *, reference: str | None = None, metric: str = "rmse") -> xr.Dataset:
    """How much better or worse than a reference the forecast is, for each variable, level, region, season and hour.

    Args:
        scores: from `evaluate` with `confidence` and a reference.
        reference: its name; the first of the scores by default.
        metric: one of those in the scores that has a perfect score: not bias, not psnr.

    Returns:
        (row, lead_time) of relative_difference in %, of the distance to a perfect score, so that -10 says that the root
        mean square error is 10 % below the reference's; lower and upper, its interval; significance, -1 where the
        forecast is better, 1 where it is worse and 0 where the interval holds zero. The coordinates variable, level,
        region, season and hour tell what a row is of, and its label says it in words. What has no score at all, such
        as a season that was not forecast, has no row.

    Raises:
        StforecastError: ARGUMENT for scores without intervals, or without such a reference or metric; NAN if there is
            no value.
    """
    _check_metric(scores, metric)
    first, *_ = scores.data_vars
    known = scores["reference"].to_numpy().tolist() if f"{first}_skill" in scores.coords else []
    if not known:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "a score card is of scores with a reference and intervals; evaluate with reference= and confidence=0.95, "
            "and leave variables out by drop_vars, for scores[[…]] leaves the intervals behind",
        )
    reference = known[0] if reference is None else reference
    if reference not in known:
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown reference {reference!r}; there are {', '.join(known)}")
    if metric_of(metric).perfect is None:
        raise StforecastError(ErrorKind.ARGUMENT, f"{metric} has no perfect score that skill could be told from")
    rows: list[tuple[str, str, dict[str, Any], xr.DataArray, xr.DataArray]] = []
    at = {"source": "forecast", "reference": reference, "metric": metric}
    for name in map(str, scores.data_vars):
        change = -100 * scores[f"{name}_skill"].sel(at).reset_coords(drop=True)
        # More skill is less distance, so the bounds change places.
        bounds = -100 * scores[f"{name}_skill_interval"].sel(at).reset_coords(drop=True)
        for words, one in _each(change):
            if one.isnull().all():
                continue
            labels = {str(dim): one[dim].item() for dim in one.coords if one[dim].ndim == 0}
            rows.append((", ".join([name, *words]), name, labels, one, bounds.sel(labels)))
    if not rows:
        raise StforecastError(
            ErrorKind.NAN, f"no {metric} can be compared with that of {reference}; choose another metric or reference"
        )
    dims = list(dict.fromkeys(dim for _, _, labels, _, _ in rows for dim in labels))
    lower, upper = (
        np.stack([bounds.sel(bound=bound).to_numpy() for *_, bounds in rows]) for bound in ("upper", "lower")
    )
    attrs = {"units": "%"}
    return xr.Dataset(
        {
            "relative_difference": (("row", "lead_time"), np.stack([one.to_numpy() for *_, one, _ in rows]), attrs),
            "lower": (("row", "lead_time"), lower, attrs),
            "upper": (("row", "lead_time"), upper, attrs),
            "significance": (("row", "lead_time"), (lower > 0).astype(int) - (upper < 0).astype(int), {"units": "1"}),
        },
        {
            "row": [label for label, *_ in rows],
            "lead_time": scores["lead_time"],
            "variable": ("row", [name for _, name, *_ in rows]),
        }
        | {dim: ("row", [labels.get(dim, np.nan) for _, _, labels, _, _ in rows]) for dim in dims},
        {
            "metric": metric,
            "reference": reference,
            **{name: scores.attrs[name] for name in ("confidence", "bootstrap", "init_time_count")},
        },
    )


def score_card_table(card: xr.Dataset) -> str:
    """A score card as Markdown: a row for each of its rows, a column for each lead time.

    Numbers are relative differences in %, below zero where the forecast is better; those that are more than chance are
    bold.

    Args:
        card: from `score_card`.
    """
    title = (
        f"{card.attrs['metric']} of the forecast relative to {card.attrs['reference']} (%), below 0 is better, bold "
        f"where the {card.attrs['confidence']:.0%} interval leaves out 0"
    )
    header = ["", *(show_step(lead) for lead in card["lead_time"].to_numpy())]
    rows = [
        [
            label,
            *(
                f"**{value:+.1f}**" if is_sure else f"{value:+.1f}"
                for value, is_sure in zip(values, significance, strict=True)
            ),
        ]
        for label, values, significance in zip(
            card["row"].to_numpy().tolist(),
            card["relative_difference"].to_numpy(),
            card["significance"].to_numpy(),
            strict=True,
        )
    ]
    return _markdown(title, header, rows, words=1)
