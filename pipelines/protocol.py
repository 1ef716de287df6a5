"""A published protocol from its raw files: `python pipelines/protocol.py pipelines/taxibj.yaml FOLDER`.

`protocol: openstl` scores by the published rule, its faults included; `protocol: honest` fits the same network and
scores it as this package does. docs/protocols.md says what differs.
"""

import json
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import openstl_rule
import torch
import typer
import xarray as xr
import yaml
from openstl_rule import Material, PublishedSchedule
from pydantic import (
    BeforeValidator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

import stforecast as stf
from stforecast.configuration import Section, checked, read_yaml
from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import replacing
from stforecast.sources.openstl import is_openstl, refuse_as_series
from stforecast.split import parse_period
from stforecast.time_axis import show_step

OUTPUT = Path("data/runs/protocols")
# What TrainingConfig wants is a number; the published training cuts no gradient.
NO_CLIP = 1e9

Rule = Literal["openstl", "honest"]
Period = Annotated[tuple[str, str], BeforeValidator(lambda said: parse_period(str(said)))]
Table = dict[str, dict[str, Any]]


class Periods(Section):
    """Periods as one writes them, e.g. 2010..2015 or 2016."""

    train: Period
    validation: Period
    test: Period


class Sizes(Section):
    """The published network's sizes, see `stforecast.NetworkConfig`."""

    hidden_spatial: PositiveInt
    hidden_temporal: PositiveInt
    spatial_layers: PositiveInt
    temporal_layers: PositiveInt
    mlp_ratio: PositiveFloat
    drop_path: NonNegativeFloat


class Training(Section):
    """How the published network is fitted, see `stforecast.TrainingConfig`; the schedule is `PublishedSchedule`."""

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    warm_up_epochs: NonNegativeInt
    divergence_weight: NonNegativeFloat
    seed: NonNegativeInt


class Settings(Section):
    """What both protocols of both data sets want to know."""

    protocol: Rule
    history: PositiveInt
    horizon: PositiveInt
    split: Periods
    network: Sizes
    training: Training
    references: tuple[str, ...]

    @model_validator(mode="after")
    def _as_long_as_history(self) -> "Settings":
        if self.horizon != self.history:
            raise ValueError(
                f"the published network gives as many frames as it sees: wanted a horizon of {self.history}, got "
                f"{self.horizon}"
            )
        return self

    @property
    def periods(self) -> stf.Split:
        """The split."""
        return stf.Split(self.split.train, self.split.validation, self.split.test)

    @property
    def network_config(self) -> stf.NetworkConfig:
        """TAU as published: it sees frames and forecasts frames, and longitude ends at the dateline."""
        return stf.NetworkConfig(**self.network.model_dump(), first_guess="none", circular=False, parity=True)

    @property
    def training_config(self) -> stf.TrainingConfig:
        """Adam on the published loss; the schedule comes besides."""
        known = self.training.model_dump(exclude={"warm_up_epochs"})
        return stf.TrainingConfig(**known, schedule="constant", divergence_reduction="mean", gradient_clip=NO_CLIP)

    @property
    def schedule(self) -> PublishedSchedule:
        """The published learning rates."""
        return PublishedSchedule(self.training.learning_rate, self.training.epochs, self.training.warm_up_epochs)


class TaxiBJ(Settings):
    """Flows of Beijing."""

    data: Literal["taxibj"]
    test_windows: PositiveInt


class WeatherBench(Settings):
    """One variable of WeatherBench 1."""

    data: Literal["weatherbench"]
    variable: str


KINDS: dict[str, type[TaxiBJ] | type[WeatherBench]] = {"taxibj": TaxiBJ, "weatherbench": WeatherBench}


def read_settings(path: Path, changes: dict[str, Any] | None = None) -> TaxiBJ | WeatherBench:
    """The checked settings of a YAML file.

    Args:
        path: the file.
        changes: other values, by keys such as training.epochs.

    Raises:
        StforecastError: what `read_yaml` and `checked` refuse; ARGUMENT for other data.
    """
    known = read_yaml(path)
    for key, value in (changes or {}).items():
        _change(known, key, value)
    if not isinstance(known.get("data"), str) or known["data"] not in KINDS:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{path}: data must be {' or '.join(KINDS)}, not {known.get('data')!r}"
        )
    return checked(known, KINDS[known["data"]], where=path)


def _change(known: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    for section in sections:
        known = known.setdefault(section, {})
        if not isinstance(known, dict):
            raise StforecastError(ErrorKind.ARGUMENT, f"{section} of {key} is a value and has no {last}")
    known[last] = value


@dataclass(frozen=True)
class Outcome:
    """What a protocol gave.

    Attributes:
        rule: by which it was scored.
        data: what the raw files say of themselves.
        tables: Markdown.
        scores: the same as plain values.
        faults: what is wrong with the rule, in sentences.
        remarks: what else has to be known.
        windows: how many, by part.
        crossing: of them, those that go across a gap.
        training: losses by epoch and so on.
    """

    rule: Rule
    data: str
    tables: str
    scores: Table
    faults: list[str]
    remarks: list[str]
    windows: dict[str, int]
    crossing: dict[str, int]
    training: dict[str, Any]


def run(settings: TaxiBJ | WeatherBench, raw: Path, folder: Path) -> Outcome:
    """The outcome of a protocol on the raw files; what it makes of them lies in `folder`.

    Raises:
        StforecastError: whatever is amiss with the files, as the package says it.
    """
    return honest(settings, raw, folder) if settings.protocol == "honest" else openstl(settings, raw)


def openstl(settings: TaxiBJ | WeatherBench, raw: Path) -> Outcome:
    """Fitted, chosen and scored by the published rule."""
    material, data = _material(settings, raw)
    lengths = settings.history, settings.horizon
    network, record = openstl_rule.fit(
        material, settings.network_config, settings.training_config, settings.schedule, *lengths
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    scores = {
        "forecast": openstl_rule.scores(lambda seen: network(seen.to(device)).cpu(), material, *lengths),
        "persistence": openstl_rule.scores(openstl_rule.last_frame(settings.horizon), material, *lengths),
    }
    return Outcome(
        rule="openstl",
        data=data,
        tables=_published_table(scores, material),
        scores=scores,
        faults=material.faults,
        remarks=[*material.remarks, "Persistence is not published; it is scored here by the same rule."],
        windows={part: len(starts) for part, starts in material.starts.items()},
        crossing=material.bridged,
        training=asdict(record),
    )


def _material(settings: TaxiBJ | WeatherBench, raw: Path) -> tuple[Material, str]:
    """The frames of the published loaders, and what the files say of themselves."""
    archive = _archive(raw)
    if isinstance(settings, TaxiBJ) and archive is not None:
        return openstl_rule.taxibj_archive(archive, settings.history, settings.horizon), str(archive.name)
    series = _series(settings, raw)
    data = str(series.attrs.get("title", "untitled"))
    if isinstance(settings, TaxiBJ):
        return openstl_rule.taxibj(series, settings.test_windows, settings.history, settings.horizon), data
    return openstl_rule.weatherbench(series, settings.periods, settings.history, settings.horizon), data


def _archive(raw: Path) -> Path | None:
    """OpenSTL's dataset.npz, where the raw files are that."""
    archive = raw if raw.is_file() else raw / "dataset.npz"
    return archive if is_openstl(archive) else None


def _series(settings: TaxiBJ | WeatherBench, raw: Path) -> xr.Dataset:
    if isinstance(settings, TaxiBJ):
        return stf.open_dataset(raw, source="taxibj")
    period = settings.split.train[0], settings.split.test[1]
    return stf.open_dataset(raw, source="weatherbench", variables=[settings.variable], period=period)


def honest(settings: TaxiBJ | WeatherBench, raw: Path, folder: Path) -> Outcome:
    """The same network, fitted on the training period, chosen by the validation period, scored on the test period."""
    archive = _archive(raw)
    if archive is not None:
        refuse_as_series(archive)
    store = folder / "series.zarr"
    series = stf.prepare(_series(settings, raw), store, settings.periods, allow_gaps=True, overwrite=True)
    forecaster = stf.fit(
        store,
        history=settings.history,
        horizon=settings.horizon,
        network=settings.network_config,
        training=settings.training_config,
        lightning={"callbacks": [settings.schedule]},
    )
    forecast = stf.predict(series, forecaster, init_times=forecaster.init_times(series, part="test"))
    scores = stf.evaluate(forecast, series, reference=settings.references)
    cut = forecaster.training["windows_cut_by_gaps"]
    return Outcome(
        rule="honest",
        data=str(series.attrs.get("title", "untitled")),
        tables="\n\n".join(stf.score_table(scores, metric=metric) for metric in ("rmse", "mae")),
        scores=_by_lead(scores),
        faults=[],
        remarks=[
            "Statistics and references are fitted on the training period, the validation period chose the epoch, and "
            "the test period is only scored, by lead time, in physical units.",
            f"Weighting of cells: {scores.attrs['area_weighting']}.",
            f"No window goes across a gap; had no frame been absent between the first and the last of a part, "
            f"{cut['train']} more would train and {cut['validation']} more validate.",
            f"{scores.attrs['init_time_count']} init times are scored, from {scores.attrs['init_time_start']} to "
            f"{scores.attrs['init_time_end']}; all sources on the same cells and times.",
        ],
        windows=dict(forecaster.training["windows"]),
        crossing=dict.fromkeys(cut, 0),
        training={
            name: forecaster.training[name] for name in ("training_loss", "validation_loss", "best_epoch", "seconds")
        },
    )


def _published_table(scores: Table, material: Material) -> str:
    metrics = list(scores["forecast"])
    units = dict.fromkeys(metrics, "" if material.is_summed else f" ({material.units})")
    units |= {"psnr": " (dB)"} | ({} if material.is_summed else {"mse": f" ({material.units}²)"})
    heads = " | ".join(f"{metric}{units[metric]}" for metric in metrics)
    rows = [
        f"| {source} | {' | '.join(f'{values[metric]:.5g}' for metric in metrics)} |"
        for source, values in scores.items()
    ]
    return "\n".join([f"| | {heads} |", "|---|" + "---:|" * len(metrics), *rows])


def _by_lead(scores: xr.Dataset) -> Table:
    """Scores as plain values: by variable and source, then metric, then lead time."""
    return {
        f"{name} {source}": {
            str(metric): {
                show_step(lead): float(variable.sel(source=source, metric=metric, lead_time=lead))
                for lead in scores["lead_time"].to_numpy()
            }
            for metric in scores["metric"].to_numpy()
        }
        for name, variable in scores.data_vars.items()
        for source in scores["source"].to_numpy()
    }


def report(outcome: Outcome, settings: TaxiBJ | WeatherBench, name: str) -> str:
    """The outcome as a Markdown page that says by which rule it is and what is wrong with that."""
    said = {
        "openstl": "the published one of OpenSTL, its faults included, for comparison with published numbers",
        "honest": "this package's own",
    }
    epochs = len(outcome.training["validation_loss"])
    counted = ", ".join(
        f"{count} {part} ({outcome.crossing[part]} across a gap)" for part, count in outcome.windows.items()
    )
    return "\n".join(
        [
            f"# {name}, rule: {outcome.rule}\n",
            f"Data: {outcome.data}. Rule: {said[outcome.rule]}. {settings.history} frames in, {settings.horizon} "
            f"frames out; windows: {counted}; epoch {outcome.training['best_epoch'] + 1} of {epochs} was kept.\n",
            outcome.tables,
            *(["\nFaults of this rule:\n", *(f"- {fault}" for fault in outcome.faults)] if outcome.faults else []),
            "\nRemarks:\n",
            *(f"- {remark}" for remark in outcome.remarks),
            "",
        ]
    )


def write(outcome: Outcome, settings: TaxiBJ | WeatherBench, name: str, folder: Path) -> None:
    """Write report.md and scores.json into a folder; what was there is replaced."""
    packages = ("stforecast", "torch", "lightning", "numpy", "xarray")
    described = asdict(outcome) | {
        "settings": settings.model_dump(mode="json"),
        "versions": {package: version(package) for package in packages},
    }
    for file, text in (
        ("report.md", report(outcome, settings, name)),
        ("scores.json", json.dumps(described, indent=2) + "\n"),
    ):
        with replacing(folder / file) as temporary:
            temporary.write_text(text)


def _assignment(text: str) -> tuple[str, Any]:
    """A key and its value, e.g. of training.epochs=1."""
    key, equals, value = text.partition("=")
    if not equals:
        raise StforecastError(ErrorKind.ARGUMENT, f"wanted KEY=VALUE such as training.epochs=1, got {text!r}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise StforecastError(ErrorKind.ARGUMENT, f"the value of {text!r} is no YAML") from error


app = typer.Typer(add_completion=False)


@app.command()
def main(
    settings: Annotated[Path, typer.Argument(help="A protocol, e.g. pipelines/taxibj.yaml.")],
    raw: Annotated[Path, typer.Argument(help="The folder of the raw files.")],
    protocol: Annotated[str | None, typer.Option(help="openstl or honest; as the file says by default.")] = None,
    output: Annotated[Path, typer.Option(help="Where a folder of the results is made.")] = OUTPUT,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value, KEY=VALUE, e.g. training.epochs=1; again for more."),
    ] = None,
) -> None:
    """Run a published protocol from its raw files; print its scores and write report.md and scores.json."""
    try:
        changes = dict(map(_assignment, change or []))
        known = read_settings(settings, changes | ({} if protocol is None else {"protocol": protocol}))
        folder = output / f"{settings.stem}_{known.protocol}"
        # Before the hours that a fit takes.
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run(known, raw, folder)
        write(outcome, known, settings.stem, folder)
    except StforecastError as error:
        print(f"{error} [{error.kind}]", file=sys.stderr)
        raise typer.Exit(error.kind.exit_status) from error
    except OSError as error:
        print(f"{error} [{ErrorKind.IO_ERROR}]", file=sys.stderr)
        raise typer.Exit(ErrorKind.IO_ERROR.exit_status) from error
    print(report(outcome, known, settings.stem))
    print(f"wrote {folder / 'report.md'} and {folder / 'scores.json'}")


if __name__ == "__main__":
    app()
