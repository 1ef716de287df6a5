"""Stores and ingest under kills, failing and full disks, loss of power, races and damage: writes docs/reliability.md.

Trials and rules are those of the test suite (tests/crash.py, tests/trials.py), by the hundred instead of a few. The
report has no date, so that a run of the same code with the same seed on the same machine changes little but the times.
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import crash  # noqa: E402  what the test suite tries a few of
import trials  # noqa: E402

REPORT = ROOT / "docs" / "reliability.md"
WRITERS = ("new", "overwrite", "append", "replace", "resume")

INTRODUCTION = """# Reliability, measured

Written by `{command}`; do not edit. Seed {seed}; {versions}; {machine}. It took {minutes:.0f} minutes on two processes.

Each trial holds what is left against these rules: a store is the old one or the new one, to the byte, and is sound;
what was acknowledged is there; an error has the right kind, names the store, and what it says of what is left is true; a
reader that has the old version open goes on reading it; the same call made again ends in the same bytes as if nothing
had happened, and leaves nothing lying about. A violation is a trial in which any of these does not hold. Where a
failure leaves the whole folder as it was, to the byte, the call is not made again: that is the undisturbed run.

| trial | trials | violations | how they ended |
|---|---:|---:|---|
"""  # noqa: E501

EXPLANATION = """
## What was tried

- *Every point*: each opening of a file for writing, rename, link, removal, new folder, truncation and flush under the
  store's folder is numbered; at each the process is killed (SIGKILL) or gets ENOSPC, EIO or EACCES, in turn.
- *Kill at any time*: SIGKILL at a time drawn evenly over what the act takes; those that had ended by then are counted
  as done.
- *Power lost*: each fsync is written down. After the act has said that it is done, or at a point before, everything
  that was not flushed is taken away: contents of files, and names in folders that were not flushed since; in some
  trials all of it, in others each with probability 1/2. This is a model of a disk; no power was cut.
- *Disk full*: a limit on the size of a file (RLIMIT_FSIZE) between 1 byte and the largest file that is written; and a
  file system in memory (tmpfs) with 1 to 69 pages left, given more for the rerun.
- *No permission*: folder, store, versions and lock, one at a time, not writable for the user who writes.
- *Racing writers*: 2 to 8 processes behind a barrier append the same frames, append others, or make the store anew.
- *A polling reader*: opens and reads the whole store all the time while it is replaced and appended to, and its writers
  are killed.
- *One bit flipped*: drawn in every file of a store, metadata and manifest included. `validate` must notice each;
  opening and reading must refuse it or give the values that were written.
- *Damaged raw files*: cut, bits flipped, runs overwritten, halves or files swapped, deleted; then `open_dataset` and
  `prepare` in a process with limits on memory and time. It ends in a named error or in a sound store. With a SHA-256
  sum beside a file, a store must have the same values; without one, nothing tells a damaged number from a true one.
- *Worker lost*: workers of a dask.distributed cluster kill themselves within a shard, once, or whenever they take it.

## What was not tried

A real loss of power and disks that lie about flushing; network file systems (those known to keep locks on one machine
are refused, which the test suite checks by their mount options); more than one machine; other systems than Linux; file
systems other than the one named above; stores of more than some hundred files; bits flipped in memory; damage that
leaves every checksum right. Kills strike one process: with dask's threads, all writers of a store die with it.
"""


@dataclass(frozen=True)
class Job:
    """Some trials of one kind, done in a process of their own.

    Attributes:
        row: what the table calls them.
        work: a function of tests/trials.py.
        arguments: what it is given after the folder to work in.
        options: what it is given by name.
    """

    row: str
    work: str
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = ()

    def run(self, parent: Path) -> trials.Tally:
        """What came of them."""
        crash.shrink_shards()
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            place = () if self.work == "refused_permissions" else (Path(folder) / "trials",)
            return getattr(trials, self.work)(*place, *self.arguments, **dict(self.options))


def jobs(seed: int, *, quick: bool) -> list[Job]:
    """All of them, the longest first."""

    def share(full: int) -> int:
        return max(full // 20, 4) if quick else full

    listed = [Job("A polling reader", "polling", (10 if quick else 300, seed))]
    for name in WRITERS:
        shares = 4
        listed += [
            Job(f"{name}: every point, 4 faults", "crash_points", (name, number, shares * (30 if quick else 1)))
            for number in range(1 if quick else shares)
        ]
    for name in ("new", "overwrite", "append", "resume"):
        listed += [
            Job(f"{name}: kill at any time", "random_kills", (name, share(125), seed + number)) for number in range(2)
        ]
    for name in WRITERS:
        listed += [
            Job(f"{name}: power lost", "power_losses", (name, share(60), seed)),
            Job(f"{name}: disk full, ulimit", "small_files", (name, share(20), seed)),
            Job(f"{name}: disk full, tmpfs", "full_disks", (name, share(20), seed)),
            Job(f"{name}: no permission", "refused_permissions", (name,)),
        ]
    listed += [Job("Racing writers", "races", (share(100), seed + number)) for number in range(2)]
    listed += [Job("One bit flipped in a store", "flipped_bits", (share(40), seed))]
    for name in trials.RAW:
        listed += [Job(f"Damaged {name}", "fuzzed", (name, share(60), seed), (("summed", False),))]
        if name != "zarr":
            row = f"Damaged {name}, a sum beside"
            listed += [Job(row, "fuzzed", (name, share(60), seed), (("summed", True),))]
    return [*listed, Job("Worker lost", "lost_workers", (1 if quick else 6,))]


def report(tallies: dict[str, trials.Tally], seed: int, minutes: float, file_system: str) -> str:
    """The page."""
    packages = ("stforecast", "xarray", "zarr", "dask", "distributed", "filelock", "numpy", "h5py", "netCDF4")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    machine = f"Python {platform.python_version()}, Linux, files on {file_system}"
    command = " ".join(["make soak", *([f"SEED={seed}"] if seed else [])])
    lines = [INTRODUCTION.format(command=command, seed=seed, versions=versions, machine=machine, minutes=minutes)]
    for row, tally in tallies.items():
        ends = "; ".join(f"{count} {end}" for end, count in sorted(tally.outcomes.items()) if count)
        lines.append(f"| {row} | {sum(tally.outcomes.values()):,} | {len(tally.violations)} | {ends} |\n")
    total = sum(sum(tally.outcomes.values()) for tally in tallies.values())
    violations = [violation for tally in tallies.values() for violation in tally.violations]
    lines.append(f"| **all** | **{total:,}** | **{len(violations)}** | |\n\n")
    refused = max(tally.longest_s for tally in tallies.values())
    lines.append(f"The longest that a writer waited to hear that a store is busy was {refused:.2f} s.\n")
    lines += [f"{note}\n" for note in dict.fromkeys(note for tally in tallies.values() for note in tally.notes)]
    if violations:
        lines += ["\n## Violations\n\n", *(f"- {violation}\n" for violation in violations[:50])]
    return "".join([*lines, EXPLANATION])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="what all draws follow from")
    parser.add_argument("--quick", action="store_true", help="a small share of each, printed and not written")
    chosen = parser.parse_args()
    begun = time.monotonic()
    memory = Path("/dev/shm")  # noqa: S108  a trial makes some hundred small files
    parent = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    file_system = "tmpfs" if parent.is_relative_to(memory) else "the disk of the temporary folder"
    listed = jobs(chosen.seed, quick=chosen.quick)
    tallies = {job.row: trials.Tally() for job in listed}
    try:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            running = {pool.submit(job.run, parent): job for job in listed}
            for number, ended in enumerate(as_completed(running), 1):
                job, tally = running[ended], ended.result()
                tallies[job.row].add(tally)
                print(
                    f"{number}/{len(listed)} {job.row}: {dict(tally.outcomes)}", *tally.violations, sep="\n", flush=True
                )
    finally:
        shutil.rmtree(parent, ignore_errors=True)
    text = report(tallies, chosen.seed, (time.monotonic() - begun) / 60, file_system)
    if chosen.quick:
        print(text)
    else:
        REPORT.write_text(text)
        print(f"wrote {REPORT.relative_to(ROOT)}")
    if any(tally.violations for tally in tallies.values()):
        sys.exit("some rules did not hold")


if __name__ == "__main__":
    main()
