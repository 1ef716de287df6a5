"""A year of scheduled runs against faults of deliveries, disks, clocks and processes: writes docs/operations-soak.md.

Plan, play and rules are those of the test suite (tests/season.py, tests/run_trials.py), with the real series. What was
done so far lies in data/runs/soak-run, and the same command goes on there when it was stopped.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import dask  # noqa: E402
import numpy as np  # noqa: E402
import run_trials  # noqa: E402  what the test suite tries a few of
import season  # noqa: E402
import torch  # noqa: E402

import stforecast as stf  # noqa: E402

REPORT = ROOT / "docs" / "operations-soak.md"
STATE = ROOT / "data" / "runs" / "soak-run"
SMALL = stf.NetworkConfig(hidden_spatial=4, hidden_temporal=8, spatial_layers=2, temporal_layers=2)
TRAINING = stf.TrainingConfig(epochs=2, batch_size=32)

INTRODUCTION = """# A year of scheduled runs, disturbed

Written by `{command}`; do not edit. Seed {seed}; {versions}; {machine}. It took {minutes:.0f} minutes of one process beside a reader{shared}.

The real series are played into an input folder by a clock that is set by hand, and each start of a run is a process of its own, with the ladder, checks, retention and scores of an ordinary pipeline. {inits:,} init times had {starts:,} starts. Each season is played twice: undisturbed, and as below. A violation is anything that is not so:

- A forecast whose frames had come by its deadline has the same bytes as in the undisturbed season. Any other is degraded, says so with a reason, and is what its rung of the ladder gives of the undisturbed store, to the bit; or there is none, where no rung holds.
- What a run said that it published is there, until its retention is over. A run that failed published nothing, or says that it did.
- Whatever happened, the next start comes to what it should, and nobody has mended anything in between. Init times that were missed are made by `--catch-up` once their frames are there.
- A reader that polls all the time never meets an error, half a forecast, values that are not those of its record, or a `latest` that goes back; an archive that it holds open stays whole while init times are retired.
- Behind a run that published nothing lies about, and the record of each init time says what came of it.
- At the end the store has the frames and values of the undisturbed one, but for those that were never delivered, and is sound.

"""  # noqa: E501

SEASON = """## {title}

{inits:,} init times, {starts:,} starts, {violations} violations. {whole:,} forecasts are the undisturbed ones to the byte and {degraded:,} are degraded, as planned; {none} were never made, as no rung held. {readings}

"""  # noqa: E501

EXPLANATION = """
## What was tried

A cycle may have one fault of its delivery and one of its run. {share:.0%} of the cycles have one of each sort, drawn apart; each kind is as frequent as any other. Statuses are those that the command ends with (docs/operations.md); 137 is a process that was killed.

*Deliveries.* **late**: within the deadline. **too late**: after it, and before the next run. **reordered**: behind the frame of the next cycle. **never**. **outage**: seven frames come together, when the seventh is overdue. **duplicate**: twice more, under other names. **stale**: the frame before, under this one's name. **cut**, **flipped** (one bit, with the sum of the right file beside), **nan** (one cell), **celsius** (values, called K; negative where things are counted), **metres** (units), **html** (an error page): then the right file, in two of three cases before the deadline, with the time of writing that it had before. **sum late**: the right file beside the sum of another. **part**: as `*.nc.part`, renamed within or after the deadline. **growing**: under its own name, two thirds of it. **revised**: again, a cycle later, with other values; {revisions}. **several in one**: with three frames that are there already. **netcdf3**.

*Runs.* **killed at any time**: SIGKILL at a time drawn evenly over what a run takes. **at a change of the disk**: each opening for writing, rename, link, removal, new folder and flush under the pipeline's folder is numbered, and one is drawn that kills or fails. **limit on the size of files**: RLIMIT_FSIZE up to 128 kB. **disk full**: a file system in memory with 0 to 59 pages left. **no permission**: one folder of the pipeline is read-only, for a user who is not root. **two at once**. **SIGTERM** at any time. **clock stopped**: it shows the time of the cycle before, or stands while the run waits. **clock went back** by 1 to 7 cycles, or to 1970; **forward** by 1 to 3 cycles, so that forecasts are published ahead of their frames, degraded; or by a year. **killed, tried again a cycle later**: with the init time of the first start. **model damaged**: one bit of its weights. **store busy**: another process writes it. **made anew**: `--force`, under readers. **reader killed**.

## What was not tried

A real loss of power (in the trials above what was not flushed is taken away, which is a model of a disk); network file systems; several machines; input by URL or a growing store; drawing maps in each run (one in {maps} did); hung file systems.
"""  # noqa: E501


def air(data: Path, cycles: int) -> season.Season:
    """The air temperature of North America in 2014, four times a day."""
    series = stf.open_dataset(data / "ncep_air").load()
    times = series["time"].to_numpy()
    split = stf.Split(("2013-01-01", "2013-08-31"), ("2013-09-01", "2013-10-31"), ("2013-11-01", "2014-12-31"))
    first = int(np.searchsorted(times, np.datetime64("2014-01-01")))
    return _season("air", series, first, cycles, timedelta(hours=6), split)


def taxi(data: Path, cycles: int) -> season.Season:
    """The taxis of New York from 15 February 2016, each half hour."""
    file = data / "taxinyc" / "NYC16_M16x12_T30_InOut.h5"
    series = stf.open_dataset(file, time_zone="America/New_York").load()
    times = series["time"].to_numpy()
    split = stf.Split(("2016-01-01", "2016-01-31"), ("2016-02-01", "2016-02-07"), ("2016-02-08", "2016-03-30"))
    first = int(np.searchsorted(times, np.datetime64("2016-02-15")))
    zone, every = "America/New_York", timedelta(minutes=30)
    return _season("taxi", series, first, cycles, every, split, zone=zone, revisions="replace")


def _season(
    name: str, series: Any, first: int, cycles: int, length: timedelta, split: stf.Split, **options: str
) -> season.Season:
    """A season with a tiny model, which is fitted once and kept."""
    folder = STATE / f"{name}-model"
    if not folder.is_dir():
        store = STATE / f"{name}.zarr"
        stf.prepare(series.isel(time=slice(0, first)), store, split, overwrite=store.exists())
        stf.fit(store, history=4, horizon=4, network=SMALL, training=TRAINING).save(folder)
    return season.Season(name, series, first, cycles, length, stf.Forecaster.load(folder), split, **options)


def done_once(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part came to, which is kept, so that it is not done again when the command goes on."""
    kept = STATE / f"{name}.json"
    if not kept.exists():
        begun = time.monotonic()
        kept.write_text(json.dumps(work() | {"minutes": (time.monotonic() - begun) / 60}))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def played(one: season.Season, seed: int, *, outages: int, share: float, maps_every: int) -> dict[str, Any]:
    """What came of a season."""
    plan = season.Plan.of(one, seed, outages=outages, share=share)
    play = season.Play(one, plan, STATE / one.name, seed=seed, maps_every=maps_every)
    play.undisturbed(say=say)
    counts, wrong = play.play(say=say)
    record = {
        "entries": [vars(entry) for entry in play.entries],
        "readings": counts,
        "wrong": wrong,
        "choices": play.choices(),
        "is_small": play.disk.is_small,
    }
    play.close()
    shutil.rmtree(STATE / one.name)
    return record


def tried(work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What came of trials of one run."""
    folder = STATE / "trials"
    shutil.rmtree(folder, ignore_errors=True)
    tally = work(folder, *arguments)
    shutil.rmtree(folder, ignore_errors=True)
    return {"outcomes": tally.outcomes, "violations": tally.violations, "notes": tally.notes}


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def table_of_trials(parts: dict[str, dict[str, Any]]) -> str:
    lines = ["## One run, disturbed at every place\n\n"]
    lines.append(
        "A pipeline with two forecasts takes in two frames, publishes a third, scores the first and retires both. Then "
        "readers are looked after, the run is started again, and all is held against the undisturbed run.\n\n"
    )
    lines.append("| trial | trials | violations | how they ended |\n|---|---:|---:|---|\n")
    for row, part in parts.items():
        ends = "; ".join(f"{count} {end}" for end, count in sorted(part["outcomes"].items()))
        lines.append(f"| {row} | {sum(part['outcomes'].values()):,} | {len(part['violations'])} | {ends} |\n")
    lines += ["\n", *(f"{note}\n" for part in parts.values() for note in part["notes"]), "\n"]
    return "".join(lines)


def table_of_season(title: str, part: dict[str, Any]) -> str:
    entries = part["entries"]
    readings = ", ".join(f"{count:,} {what}" for what, count in part["readings"].items())
    violations = sum(len(entry["violations"]) for entry in entries) + len(part["wrong"])
    lines = [
        SEASON.format(
            title=title,
            inits=len(entries),
            starts=starts_of(part),
            violations=violations,
            readings=f"A reader beside it: {readings}.",
            **part["choices"],
        )
    ]
    for sort, head in (("fault", "what happened to a run"), ("delivery", "how the frame came, nothing else amiss")):
        lines.append(
            f"| {head} | cycles | violations | how the starts ended, with the statuses |\n|---|---:|---:|---|\n"
        )
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            if sort == "fault" or not entry["fault"]:
                groups[entry[sort] or "nothing"].append(entry)
        for name in sorted(groups, key=lambda name: (name != "nothing", name)):
            some = groups[name]
            ends = Counter(f"{how} ({status})" for entry in some for how, status in entry["ends"])
            told = "; ".join(f"{count} {end}" for end, count in sorted(ends.items()))
            lines.append(f"| {name} | {len(some):,} | {sum(len(one['violations']) for one in some)} | {told} |\n")
        lines.append("\n")
    if not part["is_small"]:
        lines.append("No small file system was filled: this user cannot mount one.\n\n")
    return "".join(lines)


def starts_of(part: dict[str, Any]) -> int:
    return sum(len(entry["ends"]) for entry in part["entries"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="what all draws follow from")
    parser.add_argument("--quick", action="store_true", help="a small share of each, printed and not written")
    chosen = parser.parse_args()
    data = Path(os.environ.get("STFORECAST_DATA", ""))
    if not (data / "ncep_air").is_dir():
        sys.exit("wanted the real series, see data/README.md: set STFORECAST_DATA to their folder")
    global STATE
    STATE = STATE / f"{chosen.seed}{'-quick' if chosen.quick else ''}"
    STATE.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dask.config.set(scheduler="synchronous")
    quick, seed, share, maps = chosen.quick, chosen.seed, 0.45, 180
    seasons = {
        "Air temperature of North America, 2014, four times a day": done_once(
            "air",
            lambda: played(
                air(data, 24 if quick else 1460), seed, outages=1 if quick else 6, share=share, maps_every=maps
            ),
        ),
        "Taxis of New York, February 2016, each half hour": done_once(
            "taxi", lambda: played(taxi(data, 24 if quick else 320), seed + 1, outages=1, share=share, maps_every=0)
        ),
    }
    trials = {
        "a kill and one error at every change of the disk": done_once(
            "points", lambda: tried(run_trials.run_points, 0, 40 if quick else 1)
        ),
        "killed at any time": done_once("kills", lambda: tried(run_trials.run_kills, 4 if quick else 60, seed)),
        "power lost": done_once("power", lambda: tried(run_trials.run_power_losses, 4 if quick else 40, seed)),
    }
    parts = [*trials.values(), *seasons.values()]
    packages = ("stforecast", "xarray", "zarr", "dask", "torch", "numpy", "netCDF4")
    text = INTRODUCTION.format(
        command=" ".join(["make soak-run", *([f"SEED={seed}"] if seed else [])]),
        seed=seed,
        versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
        machine=f"Python {platform.python_version()}, Linux, {os.cpu_count()} cores, files on tmpfs",
        minutes=sum(part["minutes"] for part in parts),
        shared=os.environ.get("SOAK_NOTE", ""),
        inits=sum(len(part["entries"]) for part in seasons.values()),
        starts=sum(starts_of(part) for part in seasons.values()),
    )
    text += "".join(table_of_season(title, part) for title, part in seasons.items()) + table_of_trials(trials)
    violations = [text for part in trials.values() for text in part["violations"]]
    for part in seasons.values():
        violations += [text for entry in part["entries"] for text in entry["violations"]] + part["wrong"]
    if violations:
        text += "\n".join(["## Violations\n", *(f"- {violation}" for violation in violations[:50]), ""])
    text += EXPLANATION.format(
        share=share, maps=maps, revisions="kept as it was by the one pipeline, replaced by the other"
    )
    if quick:
        print(text)
    else:
        REPORT.write_text(text)
        say(f"wrote {REPORT.relative_to(ROOT)}")
    shutil.rmtree(STATE)
    if violations:
        sys.exit("some rules did not hold")


if __name__ == "__main__":
    main()
