"""Fits that are interrupted, diverge, find damaged checkpoints or are told otherwise; and what the options do."""

import csv
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import training_memory
import xarray as xr
from factory import make_series
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from stforecast import training
from stforecast.checkpoints import WholeFiles, latest_checkpoint
from stforecast.errors import ErrorKind, StforecastError
from stforecast.fitting import fit
from stforecast.forecaster import Forecaster
from stforecast.models.losses import forecast_loss, square_error
from stforecast.networks import NetworkConfig
from stforecast.split import Split
from stforecast.store import prepare
from stforecast.store.versions import lock
from stforecast.training import TrainingConfig

SMALL = NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, drop_path=0.3)
# 51 windows, so 7 steps an epoch.
CONFIG = TrainingConfig(epochs=3, batch_size=8, weight_averaging=0.9, weight_decay=0.01)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    series = make_series()
    split = Split.by_fraction(series["time"].to_numpy())
    return prepare(series, tmp_path_factory.mktemp("stores") / "s.zarr", split).load()


def fitted(stored: xr.Dataset, config: TrainingConfig = CONFIG, **options: object) -> Forecaster:
    return fit(stored, history=4, horizon=2, network=SMALL, training=config, **options)


class Stop(Exception):
    pass


class StopAt(training.Callback):
    """Ends a fit behind a step, as a crash would, or does something there."""

    def __init__(self, step: int, do: Callable[[], None] | None = None) -> None:
        self.step, self.do = step, do

    def on_train_batch_end(self, trainer: object, *_: object) -> None:
        if trainer.global_step == self.step:
            if self.do is None:
                raise Stop
            self.do()


@pytest.fixture(scope="module")
def whole(stored: xr.Dataset) -> Forecaster:
    return fitted(stored)


@pytest.mark.parametrize("step", [1, 6, 7, 8, 13, 20, 21])
def test_m04_cat_i02_a_fit_goes_on_to_the_same_weights_bit_by_bit(
    tmp_path: Path, stored: xr.Dataset, whole: Forecaster, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0)
    with pytest.raises(Stop):
        fitted(stored, run=tmp_path / "run", lightning={"callbacks": [StopAt(step)]})
    resumed = fitted(stored, run=tmp_path / "run")
    assert resumed.weights_hash() == whole.weights_hash()
    for name in ("training_loss", "validation_loss", "best_epoch"):
        assert resumed.training[name] == whole.training[name]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


def test_a_run_that_is_whole_gives_the_same_model_again(tmp_path: Path, stored: xr.Dataset, whole: Forecaster) -> None:
    first = fitted(stored, run=tmp_path / "run")
    again = fitted(stored, run=tmp_path / "run")
    assert first.weights_hash() == again.weights_hash() == whole.weights_hash()
    assert again.training["training_loss"] == whole.training["training_loss"]


def test_a_run_says_what_it_is_and_how_it_went(tmp_path: Path, stored: xr.Dataset) -> None:
    model = fitted(stored, run=tmp_path / "run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["training seed"] == 0
    assert described["network drop_path"] == 0.3
    assert {"data", "version torch", "platform", "threads"} <= described.keys()
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_loss"]) for row in rows] == list(model.training["validation_loss"])
    assert (tmp_path / "run" / "loss_curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": replace(CONFIG, learning_rate=0.01)}, r"training learning_rate was 0.001, now 0.01"),
        ({"network": replace(SMALL, hidden_temporal=16)}, "network hidden_temporal was 8, now 16"),
        ({"history": 3}, "history was 4, now 3"),
    ],
)
def test_cat_i03_a_run_that_was_begun_otherwise_is_not_gone_on_with(
    tmp_path: Path, stored: xr.Dataset, change: dict, words: str
) -> None:
    options = {"history": 4, "horizon": 2, "network": SMALL, "training": CONFIG, "run": tmp_path / "run"}
    fit(stored, **options)
    described = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(StforecastError, match=words) as caught:
        fit(stored, **options | change)
    assert caught.value.kind == ErrorKind.RESUME_MISMATCH
    assert (tmp_path / "run" / "run.json").read_bytes() == described
    other = stored + 0.1
    for name in stored.data_vars:
        other[name].attrs = stored[name].attrs
    with pytest.raises(StforecastError, match=r"data was [0-9a-f]+, now [0-9a-f]+\); take what it was begun with"):
        fit(other.assign_attrs(stored.attrs), **options)


def test_a_folder_is_of_one_fit_at_a_time(tmp_path: Path, stored: xr.Dataset) -> None:
    with lock(tmp_path / "run"), pytest.raises(StforecastError, match="run is being fitted into by process") as caught:
        fitted(stored, CONFIG, run=tmp_path / "run")
    assert caught.value.kind == ErrorKind.RUN_ACTIVE
    fitted(stored, CONFIG, run=tmp_path / "run")


def test_a_run_that_cannot_be_kept_is_refused_before_anything_is_read(tmp_path: Path, stored: xr.Dataset) -> None:
    (tmp_path / "file").write_text("taken")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StforecastError, match="cannot be made") as caught:
            fitted(stored, run=folder)
        assert caught.value.kind is ErrorKind.PERMISSION


def test_cat_i04_m03_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, stored: xr.Dataset, whole: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0)
    with pytest.raises(Stop):
        fitted(stored, run=tmp_path / "run", lightning={"callbacks": [StopAt(12)]})
    before, newest = sorted((tmp_path / "run" / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{newest.name} is not what was written there.* going on from the one before"):
        assert (
            latest_checkpoint(newest.parent, WholeFiles().load_checkpoint(before)["stforecast"]["fingerprint"])
            == before
        )
    with pytest.warns(UserWarning, match="going on from the one before"):
        resumed = fitted(stored, run=tmp_path / "run")
    assert resumed.weights_hash() == whole.weights_hash()


@pytest.mark.parametrize("place", [0, 30, 60, -1])
def test_m02_j04_j03_a_flipped_bit_or_a_cut_in_a_checkpoint_is_noticed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "1.ckpt"
    WholeFiles().save_checkpoint({"weights": torch.arange(9)}, path)
    content = path.read_bytes()
    assert WholeFiles().load_checkpoint(path)["weights"].tolist() == list(range(9))
    flipped = bytearray(content)
    flipped[place] ^= 1
    for damaged in (bytes(flipped), content[:place] if place > 0 else b""):
        path.write_bytes(damaged)
        with pytest.raises(StforecastError, match="is not what was written there") as caught:
            WholeFiles().load_checkpoint(path)
        assert caught.value.kind == ErrorKind.CKPT_CORRUPT


def test_m01_j01_j02_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'boom'}",)

    WholeFiles().save_checkpoint({"weights": Bomb()}, tmp_path / "1.ckpt")
    with pytest.raises(StforecastError, match="holds more than tensors and plain values") as caught:
        WholeFiles().load_checkpoint(tmp_path / "1.ckpt")
    assert caught.value.kind == ErrorKind.CKPT_UNSAFE
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_g18_an_interrupted_fit_keeps_the_step_that_it_was_in(
    tmp_path: Path, stored: xr.Dataset, whole: Forecaster, number: signal.Signals
) -> None:
    # Without the interrupt nothing would be saved before the end of the first epoch, at step 7.
    signalled = StopAt(4, lambda: os.kill(os.getpid(), number))
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        fitted(stored, run=tmp_path / "run", lightning={"callbacks": [signalled]})
    assert caught.type is KeyboardInterrupt or caught.value.code == 128 + number
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert 4 <= int(path.stem) < 7
    assert fitted(stored, run=tmp_path / "run").weights_hash() == whole.weights_hash()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("epoch", [0, 2])
def test_an_interrupt_in_a_validation_ends_the_fit(
    tmp_path: Path, stored: xr.Dataset, whole: Forecaster, epoch: int, is_kept: bool, number: signal.Signals
) -> None:
    class Signalled(training.Callback):
        def on_validation_batch_start(self, trainer: object, *_: object) -> None:
            if trainer.current_epoch == epoch:
                os.kill(os.getpid(), number)

    handlers = [signal.getsignal(some) for some in (signal.SIGINT, signal.SIGTERM)]
    options = {"run": tmp_path / "run"} if is_kept else {}
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        fitted(stored, lightning={"callbacks": [Signalled()]}, **options)
    assert caught.type is KeyboardInterrupt if number == signal.SIGINT else caught.value.code == 128 + number
    assert [signal.getsignal(some) for some in (signal.SIGINT, signal.SIGTERM)] == handlers
    if is_kept:
        assert max((tmp_path / "run" / "checkpoints").iterdir()).stem == f"{7 * (epoch + 1):09d}"
        assert fitted(stored, **options).weights_hash() == whole.weights_hash()


def test_g07_m03_a_kill_at_any_moment_leaves_a_checkpoint_to_go_on_from(
    tmp_path: Path, stored: xr.Dataset, whole: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        child = multiprocessing.get_context("fork").Process(
            target=fitted, args=(stored,), kwargs={"run": tmp_path / "r"}
        )
        child.start()
        time.sleep(float(rng.uniform(0.1, 1.0)))
        child.kill()
        child.join()
        for path in (tmp_path / "r" / "checkpoints").glob("[!.]*.ckpt"):
            WholeFiles().load_checkpoint(path)
    assert fitted(stored, run=tmp_path / "r").weights_hash() == whole.weights_hash()


def test_what_a_kill_left_of_a_checkpoint_is_none_and_is_cleared_away(
    tmp_path: Path, stored: xr.Dataset, whole: Forecaster
) -> None:
    left = tmp_path / "r" / "checkpoints" / ".000000007.0a1b2c3d.tmp.ckpt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half of")
    # Warnings are errors here.
    assert latest_checkpoint(left.parent, {}) is None
    assert fitted(stored, run=tmp_path / "r").weights_hash() == whole.weights_hash()
    assert not left.exists()


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights_whenever_each_would_save_and_go_on_to_the_same_bits(
    tmp_path: Path, stored: xr.Dataset
) -> None:
    store = next(path for path in Path(stored.encoding["source"]).parents if path.suffix == ".zarr")
    arguments = [sys.executable, str(Path(__file__).with_name("two_processes.py")), str(store), str(tmp_path)]
    # A session of its own, so that neither process outlives a fit that hangs.
    with subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, told = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, told
    said = {path.read_text() for path in tmp_path.glob("*.txt")}
    assert len(list(tmp_path.glob("*.txt"))) == 4
    assert len(said) == 1
    assert Forecaster.load(tmp_path / "model").weights_hash() == said.pop().split()[0]


def test_a_compiled_fit_takes_the_same_steps_and_goes_on(
    tmp_path: Path, stored: xr.Dataset, whole: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What torch makes of a network's calls is kept as it is: its own compiler takes minutes and rounds otherwise.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0)
    config, graphs = replace(CONFIG, compiled=True), torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    with pytest.raises(Stop):
        fitted(stored, config, run=tmp_path / "run", lightning={"callbacks": [StopAt(8)]})
    assert graphs["unique_graphs"] >= before + 3  # of whole batches and of last ones, and of a validation
    compiled = fitted(stored, config, run=tmp_path / "run")
    assert compiled.weights_hash() == whole.weights_hash()
    assert not any(module._compiled_call_impl for module in compiled.network.modules())
    before = graphs["unique_graphs"]
    xr.testing.assert_identical(compiled.predict(stored), whole.predict(stored))
    assert graphs["unique_graphs"] == before


def test_a_network_that_cannot_be_compiled_is_told_of_at_the_first_step(
    stored: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_no_compiler(*_: object) -> None:
        raise FileNotFoundError("no g++")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=has_no_compiler))
    with pytest.raises(StforecastError, match=r"cannot write code .*no g\+\+.*; fit with compiled=False") as caught:
        fitted(stored, replace(CONFIG, compiled=True))
    assert caught.value.kind == ErrorKind.BACKEND


def test_a_deterministic_fit_leaves_the_process_as_it_was(stored: xr.Dataset, whole: Forecaster) -> None:
    seen = []
    note = StopAt(3, lambda: seen.append(torch.are_deterministic_algorithms_enabled()))
    same = fitted(stored, lightning={"deterministic": True, "callbacks": [note]})
    assert (seen, torch.are_deterministic_algorithms_enabled()) == ([True], False)
    # On a CPU any fit is.
    assert same.weights_hash() == whole.weights_hash()


@pytest.mark.slow
def test_memory_does_not_grow_from_epoch_to_epoch(tmp_path: Path) -> None:
    sizes = training_memory.sizes_by_epoch(24, tmp_path)
    # docs/performance.md has 0.1 MiB an epoch at first and 2 KiB in the long run.
    assert sizes[-1] - sizes[7] < 16 * 2**20


def test_m05_d09_a_gradient_that_is_not_finite_stops_the_fit(stored: xr.Dataset, monkeypatch) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return frames[:, :2] + self.weight.sqrt()

    monkeypatch.setattr("stforecast.networks.NetworkShape.build", lambda *_: Root())
    with pytest.raises(StforecastError, match="the gradient became inf in epoch 0, batch 0 .*begin at 2016") as caught:
        fitted(stored)
    assert caught.value.kind == ErrorKind.TRAIN_DIVERGED


def test_m05_d09_a_fit_that_diverges_keeps_what_it_had(tmp_path: Path, stored: xr.Dataset, whole: Forecaster) -> None:
    class Spoils(training.Callback):
        def on_train_batch_end(self, trainer: object, module: nn.Module, *_: object) -> None:
            if trainer.global_step == 9:
                with torch.no_grad():
                    next(module.network.parameters()).fill_(torch.nan)

    # Seven steps are an epoch.
    with pytest.raises(StforecastError, match="loss became nan in epoch 1, batch 2 .*begin at 2016-01-") as caught:
        fitted(stored, run=tmp_path / "run", lightning={"callbacks": [Spoils()]})
    assert caught.value.kind == ErrorKind.TRAIN_DIVERGED
    assert [path.stem for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000007"]
    assert fitted(stored, run=tmp_path / "run").weights_hash() == whole.weights_hash()


@pytest.fixture
def limit_files() -> Iterator[Callable[[int | None], None]]:
    """Sets how large a file may grow, in bytes, or takes the limit away again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, before if size is None else (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_g07_g10_a_checkpoint_that_finds_no_room_leaves_the_one_before(
    tmp_path: Path, stored: xr.Dataset, whole: Forecaster, limit_files: Callable[[int | None], None]
) -> None:
    match = r"000000014\.ckpt was not written and what was there before is intact; .* free in"
    with pytest.raises(StforecastError, match=match) as caught:
        fitted(stored, run=tmp_path / "run", lightning={"callbacks": [StopAt(8, lambda: limit_files(4096))]})
    assert caught.value.kind == ErrorKind.DISK_FULL
    with pytest.raises(StforecastError, match="model was not written") as caught:
        whole.save(tmp_path / "model")
    assert caught.value.kind == ErrorKind.DISK_FULL
    limit_files(None)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000007.ckpt"]
    assert not (tmp_path / "model").exists()
    assert fitted(stored, run=tmp_path / "run").weights_hash() == whole.weights_hash()


def test_l05_memory_that_a_fit_cannot_get_is_named(stored: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return frames + self.weight.expand(2**50).clone()

    monkeypatch.setattr("stforecast.networks.NetworkShape.build", lambda *_: Greedy())
    with pytest.raises(StforecastError, match=r"there is too little memory .*lower batch_size \(8\)") as caught:
        fitted(stored)
    assert caught.value.kind == ErrorKind.MEMORY_BUDGET


def test_a_rollout_learns_from_its_own_output(stored: xr.Dataset) -> None:
    one, two = (fitted(stored, replace(CONFIG, rollout_steps=steps)) for steps in (1, 2))
    assert one.training["windows"] == {"train": 51, "validation": 3}
    assert two.training["windows"] == {"train": 49, "validation": 3}
    assert one.weights_hash() != two.weights_hash()


def test_patience_ends_a_fit_that_gets_no_better(stored: xr.Dataset) -> None:
    config = TrainingConfig(epochs=60, batch_size=8, learning_rate=0.05, patience=2)
    training = fitted(stored, config).training
    assert len(training["validation_loss"]) == training["best_epoch"] + 3 < 60


@pytest.mark.parametrize("averaging", [0.0, 0.5])
def test_a_run_that_patience_ended_gives_the_same_model_again(
    tmp_path: Path, stored: xr.Dataset, averaging: float
) -> None:
    # A rate so high that some epoch soon is worse than the one before.
    impatient = TrainingConfig(
        epochs=12, batch_size=8, learning_rate=1.0, schedule="constant", patience=1, weight_averaging=averaging
    )
    first, again = (fitted(stored, impatient, run=tmp_path / "run") for _ in range(2))
    assert len(first.training["validation_loss"]) < 12
    assert again.training["validation_loss"] == first.training["validation_loss"]
    assert again.weights_hash() == first.weights_hash()


def test_patience_is_as_long_in_a_fit_that_goes_on(
    tmp_path: Path, stored: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0)
    # Nothing is learnt at such a rate, so the first epoch stays the best but for rounding.
    config = TrainingConfig(epochs=8, batch_size=8, learning_rate=1e-12, patience=3)
    whole = fitted(stored, config)
    for after in (7, 14, 21):
        run = tmp_path / f"run{after}"
        with pytest.raises(Stop):
            fitted(stored, config, run=run, lightning={"callbacks": [StopAt(after + 1)]})
        # What is left is the checkpoint of the epoch's end.
        max((run / "checkpoints").iterdir()).unlink()
        resumed = fitted(stored, config, run=run)
        assert resumed.training["validation_loss"] == whole.training["validation_loss"], after


@pytest.mark.parametrize("schedule", ["one_cycle", "constant", "cosine"])
def test_each_schedule_has_its_highest_rate(tmp_path: Path, stored: xr.Dataset, schedule: str) -> None:
    config = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.01, schedule=schedule)
    fitted(stored, config, run=tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert max(rates) <= 0.0101
    assert rates == [0.01] * 4 if schedule == "constant" else rates[-1] < 1e-4


def test_a_weighted_error_equals_its_formula_and_leaves_the_divergence_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 4, 1, 3, 5, generator=generator) for _ in range(2))
    area = torch.rand(3, 1, generator=generator).expand(3, 5)
    area = area / area.mean()
    expected = (((prediction - target) ** 2) * area).mean()
    torch.testing.assert_close(square_error(prediction, target, area), expected)
    torch.testing.assert_close(square_error(prediction, target, torch.ones(3, 5)), square_error(prediction, target))
    apart = forecast_loss(prediction, target, weight=area) - forecast_loss(prediction, target)
    torch.testing.assert_close(apart, expected - square_error(prediction, target))


def test_validation_is_weighted_as_training_is(stored: xr.Dataset) -> None:
    plain, weighted = (fitted(stored, replace(CONFIG, area_weighted=flag)).training for flag in (False, True))
    assert plain["validation_loss"] != weighted["validation_loss"]


def test_lead_times_are_weighted_by_the_first_guess_s_errors_in_training_alone() -> None:
    series = make_series(160)
    network = NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2, first_guess="regression")
    # So slow that the network stays at its first guess.
    still = TrainingConfig(epochs=1, batch_size=200, learning_rate=1e-12, divergence_weight=0.0)
    plain, weighted = (
        fit(series, history=4, horizon=6, network=network, training=replace(still, lead_weighted=flag))
        for flag in (False, True)
    )
    assert weighted.training["validation_loss"] == plain.training["validation_loss"]
    train = series.isel(time=weighted.split.part_rows(series["time"].to_numpy(), "train"))
    forecast = weighted.predict(train, init_times=weighted.init_times(train, horizon=6))
    truth = train["t2m"].to_numpy()[np.searchsorted(train["time"], forecast["valid_time"])]
    scale = weighted.normalization.variables["t2m"].scale
    square = np.square((forecast["t2m"] - truth) / scale).mean(["init_time", "latitude", "longitude"]).to_numpy()
    usual = weighted.network.error.square().mean(dim=(1, 2, 3)).numpy()
    by_lead = 1 / usual / (1 / usual).mean()
    assert np.ptp(by_lead) > 0.1
    assert plain.training["training_loss"][0] == pytest.approx(square.mean(), rel=1e-4)
    assert weighted.training["training_loss"][0] == pytest.approx((by_lead * square).mean(), rel=1e-4)


def test_without_a_first_guess_s_errors_lead_times_cannot_be_weighted(stored: xr.Dataset) -> None:
    with pytest.raises(
        StforecastError, match="lead_weighted wants first_guess='regression'.*not 'last_frame'"
    ) as caught:
        fitted(stored, replace(CONFIG, lead_weighted=True))
    assert caught.value.kind == ErrorKind.ARGUMENT


@pytest.mark.parametrize("name", ["num_sanity_val_steps", "check_val_every_n_epoch", "val_check_interval"])
def test_when_a_fit_is_validated_cannot_be_told_to_lightning(stored: xr.Dataset, name: str) -> None:
    with pytest.raises(StforecastError, match=f"{name} cannot be told to Lightning"):
        fitted(stored, lightning={name: 1})


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "16-true"])
def test_weights_of_another_precision_are_refused(stored: xr.Dataset, precision: str) -> None:
    with pytest.raises(StforecastError, match=f"must be '32-true' or 'bf16-mixed', not '{precision}'") as caught:
        fitted(stored, lightning={"precision": precision, "accelerator": "cpu"})
    assert caught.value.kind == ErrorKind.ARGUMENT


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_processes_that_bring_nothing_back_are_refused(stored: xr.Dataset, strategy: str) -> None:
    with pytest.raises(StforecastError, match="forks or spawns its processes brings nothing back from them") as caught:
        fitted(stored, lightning={"strategy": strategy, "devices": 2, "accelerator": "cpu"})
    assert caught.value.kind == ErrorKind.ARGUMENT


def test_what_lightning_is_told_decides_whether_a_run_is_gone_on_with(tmp_path: Path, stored: xr.Dataset) -> None:
    one = replace(CONFIG, epochs=1)
    fitted(stored, one, run=tmp_path / "run", lightning={"accelerator": "cpu"})
    for option, words in (
        ({"precision": "bf16-mixed"}, "lightning precision was 32-true, now bf16-mixed"),
        ({"accumulate_grad_batches": 2}, "lightning accumulate_grad_batches was 1, now 2"),
        ({"devices": 2, "strategy": "ddp"}, "lightning processes was 1, now 2"),
    ):
        with pytest.raises(StforecastError, match=words) as caught:
            fitted(stored, one, run=tmp_path / "run", lightning={"accelerator": "cpu", **option})
        assert caught.value.kind == ErrorKind.RESUME_MISMATCH


def test_a_logger_is_told_the_losses_of_each_epoch(tmp_path: Path, stored: xr.Dataset) -> None:
    logger = CSVLogger(tmp_path)
    training = fitted(stored, lightning={"logger": logger}).training
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["validation_loss"]]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    for name, column in (("training_loss", "training_loss_epoch"), ("validation_loss", "validation_loss")):
        np.testing.assert_allclose([float(row[column]) for row in rows], training[name], rtol=1e-5)


def test_tensorboard_is_told_the_losses_of_each_epoch(tmp_path: Path, stored: xr.Dataset) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    training = fitted(stored, lightning={"logger": TensorBoardLogger(tmp_path)}).training
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    told = events.EventAccumulator(str(file))
    told.Reload()
    for name, column in (("training_loss", "training_loss_epoch"), ("validation_loss", "validation_loss")):
        np.testing.assert_allclose([event.value for event in told.Scalars(column)], training[name], rtol=1e-5)


def test_what_lightning_shows_may_be_told(stored: xr.Dataset) -> None:
    fitted(stored, replace(CONFIG, epochs=1), lightning={"enable_progress_bar": False, "enable_model_summary": False})


def test_what_is_settled_by_the_configuration_cannot_be_told_to_lightning(stored: xr.Dataset) -> None:
    with pytest.raises(StforecastError, match="max_epochs cannot be told to Lightning") as caught:
        fitted(stored, lightning={"max_epochs": 3})
    assert caught.value.kind == ErrorKind.ARGUMENT


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"schedule": "sine"}, "schedule must be 'cosine' or 'one_cycle' or 'constant', not 'sine'"),
        ({"weight_averaging": 1.0}, "weight_averaging must be at least 0 and below 1, not 1.0"),
        ({"patience": 0}, "patience must be above 0, not 0"),
        ({"rollout_steps": 0}, "rollout_steps must be at least 1, not 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options: dict, match: str) -> None:
    with pytest.raises(StforecastError, match=match):
        TrainingConfig(**options)
