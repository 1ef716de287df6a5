"""A share of `make soak-run` in every run of CI: a small season with each fault once, and points of one run."""

import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dask
import pytest
import run_trials
import scheduled
from season import DELIVERIES, FAULTS, Plan, Play, Season

import stforecast as stf

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # What is forked must not wait for threads that only its parent has.
    with dask.config.set(scheduler="synchronous"):
        yield


def test_m08_m09_g02_g18_cat_i05_h02_h08_n03_n04_n11_a_small_season_comes_to_what_it_should() -> None:
    model = stf.Forecaster.load(scheduled.prepared() / "model")
    # The next test has changes of the disk.
    faults = tuple(fault for fault in FAULTS if "change of the disk" not in fault)
    cycles = max(len(faults), len(DELIVERIES))
    season = Season("tiny", scheduled.SERIES, scheduled.PREPARED, cycles, timedelta(hours=6), model, scheduled.SPLIT)
    # Outside of pytest's own folder, into which nobody else may look.
    folder = Path(tempfile.mkdtemp(prefix="season-"))
    play = Play(season, Plan.of(season, 7, share=1.0, outages=0, faults_of=faults), folder, seed=7)
    try:
        play.undisturbed()
        counts, wrong = play.play()
    finally:
        play.close()
        shutil.rmtree(folder, ignore_errors=True)
    assert not wrong
    assert not [violation for entry in play.entries for violation in entry.violations]
    assert {entry.fault for entry in play.entries} == set(faults)
    assert counts["readings of latest"] > 10


def test_g02_cat_i05_m09_a_run_may_die_or_fail_anywhere_and_the_next_one_recovers(tmp_path: Path) -> None:
    tally = run_trials.run_points(tmp_path / "points", 20, 61)
    assert not tally.violations
    assert sum(tally.outcomes.values()) >= 4


def test_m08_g11_what_a_run_acknowledged_survives_a_loss_of_power(tmp_path: Path) -> None:
    tally = run_trials.run_power_losses(tmp_path / "power", 2, seed=1)
    assert not tally.violations
