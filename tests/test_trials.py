"""A share of `make soak` in every run of CI: some trials of each kind, seeded."""

from pathlib import Path

import pytest
import trials
from crash import shrink_shards

from stforecast.store import layout

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", layout.CHUNK_BYTES)
    monkeypatch.setattr(layout, "SHARD_BYTES", layout.SHARD_BYTES)
    shrink_shards()


def held(tally: trials.Tally, least: int) -> None:
    assert not tally.violations
    assert sum(tally.outcomes.values()) >= least


@pytest.mark.parametrize("name", ["overwrite", "append"])
def test_s02_s03_g02_g03_a_writer_may_be_killed_at_any_time(tmp_path: Path, name: str) -> None:
    held(trials.random_kills(tmp_path / name, name, 6, seed=1), 6)


@pytest.mark.parametrize("name", ["new", "append"])
def test_g11_what_was_acknowledged_survives_a_loss_of_power(tmp_path: Path, name: str) -> None:
    held(trials.power_losses(tmp_path / name, name, 8, seed=1), 8)


@pytest.mark.parametrize("name", ["overwrite", "append"])
def test_g05_s05_a_full_disk_leaves_the_old_store_and_room_lets_a_rerun_pass(tmp_path: Path, name: str) -> None:
    held(trials.small_files(tmp_path / "small", name, 3, seed=1), 3)
    (tmp_path / "full").mkdir()
    tally = trials.full_disks(tmp_path / "full", name, 4, seed=1)
    held(tally, 0 if tally.notes else 4)


@pytest.mark.parametrize("name", ["new", "append"])
def test_g09_s05_what_may_not_be_written_is_named_with_the_user(name: str) -> None:
    held(trials.refused_permissions(name), len(trials.FORBIDDEN))


def test_s06_h01_h02_losers_hear_busy_and_nothing_is_lost(tmp_path: Path) -> None:
    held(trials.races(tmp_path / "races", 8, seed=1), 8)


def test_s12_h03_a_polling_reader_sees_whole_states_only(tmp_path: Path) -> None:
    held(trials.polling(tmp_path / "polling", 4, seed=1), 3)


def test_s11_g13_g14_a_bit_flipped_in_any_file_is_noticed(tmp_path: Path) -> None:
    held(trials.flipped_bits(tmp_path / "flips", 2, seed=1), 40)


@pytest.mark.parametrize("name", trials.RAW)
def test_a01_a02_a03_damaged_raw_files_are_refused_by_name_or_taken_whole(tmp_path: Path, name: str) -> None:
    held(trials.fuzzed(tmp_path / name, name, 5, seed=1, summed=name != "zarr"), 5)


def test_s14_cat_m01_cat_m02_cat_m06_a_build_outlives_a_worker_and_names_what_kills_them_all(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    from on_a_cluster import run

    assert run("workers", tmp_path / "workers") == "2"
