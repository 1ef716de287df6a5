"""Fitting a network to windows with Lightning; the validation period chooses the weights."""

# ruff: noqa: ARG002  # hooks have the arguments that Lightning passes

import csv
import itertools
import json
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar, WeightAveraging
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from stforecast.allocation import keep_freed_memory, memory_named
from stforecast.checkpoints import WholeFiles, latest_checkpoint, prune
from stforecast.errors import ErrorKind, StforecastError, check_counts
from stforecast.files import faults_named, replacing
from stforecast.models.losses import forecast_loss, square_error
from stforecast.models.tau import frames_of_calls, rollout
from stforecast.networks import Context
from stforecast.precision import settings_kept, without_tf32
from stforecast.windows import Windows

Schedule = Literal["cosine", "one_cycle", "constant"]
Weights = dict[str, Tensor]
ToldBatch = tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]

_RUN_FILE = "run.json"
# What a run that is killed has to do again at most, beside the epoch's validation.
_CHECKPOINT_SECONDS = 60
_PRECISIONS = ("32-true", "bf16-mixed")
# Epochs are told apart, judged and gone on with by one validation behind each.
_OUR_OPTIONS = (
    "max_epochs",
    "enable_checkpointing",
    "use_distributed_sampler",
    "plugins",
    "gradient_clip_val",
    "num_sanity_val_steps",
    "val_check_interval",
    "check_val_every_n_epoch",
)


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is fitted.

    Attributes:
        epochs: passes over the training windows, at most.
        batch_size: windows a step.
        learning_rate: the highest of the schedule.
        schedule: "cosine", down to zero after a linear warm-up over a twentieth of the steps; "one_cycle"
            (arXiv:1708.07120); or "constant".
        weight_decay: of Adam, decoupled (AdamW, arXiv:1711.05101), on all weights but biases and scales.
        weight_averaging: decay of an exponential moving average of the weights, which is what is validated and kept; 0
            for the weights themselves. In the first steps the decay is smaller, (1 + step) / (10 + step).
        patience: epochs without a lower validation loss after which to stop; None to go on to the end.
        area_weighted: whether square errors are weighted by the cells' areas, in training and validation.
        lead_weighted: whether square errors are weighted by how far the network's first guess is off, inversely, lead
            time by lead time of a call, so that early ones count as much as late ones. In training alone; it wants
            first_guess="regression", whose errors are known.
        rollout_steps: how many calls of the network, each on the output of the one before, a training window is
            forecast by, with gradients through all. It grows from 1 in equal parts of the epochs.
        divergence_weight: alpha of the differential divergence regularization (arXiv:2206.12126 has 0.1).
        divergence_reduction: "mean" as published in code, "sum" as in the paper's formula.
        gradient_clip: the largest norm of a step's gradient.
        compiled: whether torch.compile writes code for the network, forward and backward. That takes minutes before the
            first steps, so it is for long fits on a GPU; on a CPU it wants a C++ compiler and gains little. Its sums
            round otherwise.
        seed: what initial weights, order of windows and stochastic depth follow from.

    Examples:
        >>> from dataclasses import replace
        >>> replace(TrainingConfig(), epochs=8, weight_averaging=0.99).schedule
        'cosine'
    """

    epochs: int = 30
    batch_size: int = 16
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    weight_averaging: float = 0.0
    patience: int | None = None
    area_weighted: bool = False
    lead_weighted: bool = False
    rollout_steps: int = 1
    divergence_weight: float = 0.1
    divergence_reduction: Literal["mean", "sum"] = "mean"
    gradient_clip: float = 1.0
    compiled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(epochs=self.epochs, batch_size=self.batch_size, rollout_steps=self.rollout_steps)
        for name in ("learning_rate", "gradient_clip", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be above 0, not {value}")
        for name, below in (("weight_decay", math.inf), ("weight_averaging", 1.0), ("divergence_weight", math.inf)):
            if not 0 <= getattr(self, name) < below:
                raise StforecastError(
                    ErrorKind.ARGUMENT, f"{name} must be at least 0 and below {below:g}, not {getattr(self, name)}"
                )
        for name, known in (("divergence_reduction", ("mean", "sum")), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in known:
                words = " or ".join(map(repr, known))
                raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be {words}, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class TrainingRecord:
    """What a fit did.

    Attributes:
        training_loss: the mean loss of each epoch, in normalized units.
        validation_loss: the mean square error over the validation windows after each epoch, in normalized units.
        best_epoch: the epoch, counted from 0, whose weights were kept.
        seconds: how long it took, all of its sessions together.
    """

    training_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """A folder in which a fit keeps what it takes to go on, and says how it goes.

    Attributes:
        folder: where its files are.
        fingerprint: what decides the result: configuration, data and versions, as plain values by name. A fit goes on
            only from a checkpoint with the same.
        remarks: what else run.json says; it does not decide.
    """

    folder: Path
    fingerprint: Mapping[str, Any]
    remarks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / "checkpoints"

    @staticmethod
    def memory_limit_of(folder: Path) -> int | None:
        """The memory limit that a run was begun with, if there is one to go on with."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads((folder / _RUN_FILE).read_bytes())["memory_limit"])
        return None

    def told(self, **options: Any) -> "Run":
        """The same run, its result decided besides by what Lightning was told."""
        return replace(self, fingerprint={**self.fingerprint, **{f"lightning {k}": v for k, v in options.items()}})

    def write_down(self) -> None:
        """Write run.json: what was asked for, the data, the versions and the machine."""
        path = self.folder / _RUN_FILE
        with faults_named(path), replacing(path) as temporary:
            temporary.write_text(json.dumps(dict(self.fingerprint) | dict(self.remarks), indent=2) + "\n")


@dataclass
class _Told:
    """Windows with what the network is told of them, as an iterable that Lightning takes; each pass is another.

    Attributes:
        windows: the windows.
        context: what the network is told of them.
        frames_per_call: of how many frames at once it is told.
        passes: the number of the next pass.
        skip: how many of its batches were given in an earlier session.
    """

    windows: Windows
    context: Context
    frames_per_call: int
    passes: int = 0
    skip: int = 0

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[ToldBatch]:
        batches = itertools.islice(self.windows.epoch(self.passes), self.skip, None)
        self.passes, self.skip = self.passes + 1, 0
        length = self.windows.history + frames_of_calls(self.windows.horizon, self.frames_per_call)
        for history, target, starts in batches:
            yield history, target, starts, self.context.of(starts.numpy(), length)


@dataclass(frozen=True)
class ErrorWeights:
    """What square errors are weighted by.

    Attributes:
        cells: by cell, (y, x) or (y, 1), of mean 1; all alike without.
        leads: by lead time of a call, (t,), of mean 1, in training alone; all alike without.
    """

    cells: Tensor | None = None
    leads: Tensor | None = None


class _Module(lightning.LightningModule):
    """A network with its loss, its optimizer and its windows, as Lightning wants them."""

    def __init__(
        self,
        network: nn.Module,
        windows: Mapping[str, Windows],
        context: Context,
        config: TrainingConfig,
        weights: ErrorWeights,
        describe: Callable[[Tensor], str],
    ) -> None:
        super().__init__()
        self.network, self.config, self.context, self.windows = network, config, context, windows
        self.describe = describe
        self.frames_per_call = windows["train"].horizon // config.rollout_steps
        self.register_buffer("area", weights.cells, persistent=False)
        self.register_buffer("leads", weights.leads, persistent=False)
        self.told: _Told | None = None
        # Sums and counts of the epoch so far; they travel with a checkpoint.
        self.totals = {part: [0.0, 0.0] for part in windows}

    def _told_of(self, part: str) -> _Told:
        windows, world = self.windows[part], self.trainer.world_size
        return _Told(
            windows if world == 1 else windows.shard(self.global_rank, world), self.context, self.frames_per_call
        )

    def train_dataloader(self) -> _Told:
        told = self._told_of("train")
        if self.told is not None:
            told.passes, told.skip = self.told.passes, self.told.skip
        self.told = told
        return told

    def val_dataloader(self) -> _Told:
        return self._told_of("validation")

    def training_step(self, batch: ToldBatch, index: int) -> Tensor:
        history, target, starts, context = batch
        steps = 1 + self.current_epoch * self.config.rollout_steps // self.config.epochs
        target = target[:, : steps * self.frames_per_call]
        loss: Tensor = forecast_loss(
            self._forecast(history, target.shape[1], context),
            target,
            alpha=self.config.divergence_weight,
            reduction=self.config.divergence_reduction,
            weight=self._weight(steps),
        )
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss became {loss.item()}", index, starts)
        self._count("train", loss.detach(), len(history))
        self.log("training_loss", loss, on_step=True, on_epoch=False, prog_bar=True, batch_size=len(history))
        self._batch = (index, starts)
        return loss

    def _weight(self, calls: int) -> Tensor | None:
        """Of each square error in training, by lead time and cell."""
        area, leads = cast(Tensor | None, self.area), cast(Tensor | None, self.leads)
        if leads is None:
            return area
        by_lead = leads.repeat(calls)[:, None, None, None]
        return by_lead if area is None else by_lead * area

    def _forecast(self, history: Tensor, horizon: int, context: tuple[Tensor, ...]) -> Tensor:
        return rollout(self.network, history, horizon, fitted_horizon=self.frames_per_call, context=context)

    def validation_step(self, batch: ToldBatch, index: int) -> None:
        history, target, _, context = batch
        error = square_error(
            self._forecast(history, target.shape[1], context),
            target,
            cast(Tensor | None, self.area),
        )
        self._count("validation", error, len(history))
        self.log("validation_loss", error, prog_bar=True, batch_size=len(history), sync_dist=True)

    def _count(self, part: str, loss: Tensor, windows: int) -> None:
        total = self.totals[part]
        total[0], total[1] = total[0] + float(loss) * windows, total[1] + windows

    def mean_loss(self, part: str) -> float:
        """The mean loss over all windows of a part so far, of all processes; it starts anew afterwards."""
        total, count = self.of_all(torch.tensor(self.totals[part], dtype=torch.float64)).sum(dim=0).tolist()
        self.totals[part] = [0.0, 0.0]
        return float(total / count) if count else math.nan

    def of_all(self, some: Tensor) -> Tensor:
        """What each of the processes that train together has, (process, …); all of them must ask."""
        # Gathering moves to the device, and not every one has float64.
        if self.trainer.world_size == 1:
            return some[None]
        gathered = self.all_gather(some)
        assert isinstance(gathered, Tensor)
        return gathered.cpu()

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        parameters = [weights for group in optimizer.param_groups for weights in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        if not torch.isfinite(norm):
            raise self._diverged(f"the gradient became {norm.item()}", *self._batch)

    def _diverged(self, what: str, index: int, starts: Tensor) -> StforecastError:
        return StforecastError(
            ErrorKind.TRAIN_DIVERGED,
            f"{what} in epoch {self.current_epoch}, batch {index} (windows that begin at {self.describe(starts)}); "
            f"lower learning_rate ({self.config.learning_rate:g}) or look at them",
        )

    def configure_optimizers(self) -> Any:
        config, named = self.config, list(self.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [weights for _, weights in named if weights.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [weights for _, weights in named if weights.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if config.schedule == "one_cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=max(steps, 2))
        elif config.schedule == "constant":
            schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        else:
            warm_up = max(steps // 20, 1)
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=warm_up)
            fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - warm_up, 1))
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warm_up])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        totals = {part: torch.tensor(total, dtype=torch.float64) for part, total in self.totals.items()}
        checkpoint["totals"] = {part: self.of_all(total).tolist() for part, total in totals.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.totals = {part: list(total[self.trainer.global_rank]) for part, total in checkpoint["totals"].items()}


@dataclass
class _KeepBest(Callback):
    """Remembers each epoch's losses and the weights with the lowest validation loss.

    Attributes:
        table: a file to write the epochs into, if any.
        history: one row an epoch.
        weights: of the best epoch.
        best_epoch: counted from 0.
        seconds: how long earlier sessions took.
    """

    table: Path | None
    history: list[dict[str, float]] = field(default_factory=list)
    weights: Weights = field(default_factory=dict)
    best_epoch: int = -1
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # An average of the weights stands in for them until all callbacks have seen the end of the validation, so this
        # one stands before it in their list.
        module = cast(_Module, pl_module)
        validation = module.mean_loss("validation")
        if validation < min((row["validation_loss"] for row in self.history), default=math.inf):
            self.best_epoch = trainer.current_epoch
            state = module.network.state_dict()
            self.weights = {name: value.detach().cpu().clone() for name, value in state.items()}
        row = {
            "epoch": trainer.current_epoch,
            "training_loss": module.mean_loss("train"),
            "validation_loss": validation,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(self.all_seconds, 1),
        }
        self.history.append(row)
        # The loss of each step has the shorter name in a caller's logger.
        module.log("training_loss_epoch", row["training_loss"], sync_dist=True)
        if self.table is not None and trainer.is_global_zero:
            self._write_table(self.table)

    def _write_table(self, table: Path) -> None:
        with faults_named(table), replacing(table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.history[0]))
            writer.writeheader()
            writer.writerows(self.history)

    @property
    def all_seconds(self) -> float:
        """How long all sessions took so far."""
        return self.seconds + time.monotonic() - self.started

    def losses(self, name: str) -> tuple[float, ...]:
        """A loss by epoch."""
        return tuple(row[name] for row in self.history)

    def state_dict(self) -> dict[str, Any]:
        kept = {"history": self.history, "weights": self.weights, "best_epoch": self.best_epoch}
        return kept | {"seconds": self.all_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.weights = state_dict["history"], state_dict["weights"]
        self.best_epoch, self.seconds = state_dict["best_epoch"], state_dict["seconds"]


class _Patience(EarlyStopping):
    """Ends a fit that gets no better, and one at once that had ended so and is begun again."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class _Checkpoints(Callback):
    """Saves where a fit is: after each epoch, each minute, and when it is asked to end.

    The position in the pass and the state of the random generators, of each process, are saved with the rest, so that a
    fit which goes on is the same to the last bit.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.saved = time.monotonic()
        self.interrupted = threading.Event()
        self.random: dict[str, Tensor] | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        # Processes that train together save and end together; else they wait for each other for ever.
        is_one, is_due = trainer.strategy.reduce_boolean_decision, time.monotonic() - self.saved >= _CHECKPOINT_SECONDS
        is_over = is_one(self.interrupted.is_set(), all=False)
        if is_one(is_due or is_over, all=False):
            self._save_in_pass(trainer)
        if is_over:
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # Lightning raises this between two steps, so weights and optimizer are of the same one.
        if isinstance(exception, SIGTERMException):
            self._save_in_pass(trainer)

    def _save_in_pass(self, trainer: lightning.Trainer) -> None:
        steps = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        # The last step of a pass is followed by its validation; what is saved then is the whole pass.
        if steps < trainer.num_training_batches:
            self._save(trainer, trainer.current_epoch, steps)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._save(trainer, trainer.current_epoch + 1, 0)
        # There may be no other step that notices what fell into the validation.
        if trainer.strategy.reduce_boolean_decision(self.interrupted.is_set(), all=False):
            raise KeyboardInterrupt

    def _save(self, trainer: lightning.Trainer, passes: int, skip: int) -> None:
        self.position = {"passes": passes, "skip": skip}
        trainer.save_checkpoint(self.run.checkpoints / f"{trainer.global_step:09d}.ckpt")
        if trainer.is_global_zero:
            prune(self.run.checkpoints, keep=2)
        self.saved = time.monotonic()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        module = cast(_Module, pl_module)
        is_cuda = module.device.type == "cuda"
        device = torch.cuda.get_rng_state(module.device) if is_cuda else torch.empty(0, dtype=torch.uint8)
        checkpoint["stforecast"] = {
            "fingerprint": dict(self.run.fingerprint),
            "random": {"cpu": module.of_all(torch.get_rng_state()), "cuda": module.of_all(device)},
            **self.position,
        }

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        ours = checkpoint["stforecast"]
        module = cast(_Module, pl_module)
        module.told = _Told(
            module.windows["train"], module.context, module.frames_per_call, ours["passes"], ours["skip"]
        )
        self.random = ours["random"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.random is not None:
            # Torch 2.13 looks for the state where the memory begins, and crashes on a view that begins further on.
            cpu, cuda = (self.random[kind][trainer.global_rank].clone() for kind in ("cpu", "cuda"))
            torch.set_rng_state(cpu)
            if pl_module.device.type == "cuda" and cuda.numel():
                torch.cuda.set_rng_state(cuda, pl_module.device)


@contextmanager
def _catching(interrupted: threading.Event | None) -> Iterator[None]:
    """Ends a fit that can be gone on with behind the step or the epoch that an interrupt falls into.

    A second interrupt ends it at once, as the first one does any other fit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def catch(*_: Any) -> None:
        assert interrupted is not None
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    if interrupted is not None:
        signal.signal(signal.SIGINT, catch)
    try:
        yield
    finally:
        # Lightning ignores interrupts from the first one on, and would leave that to the program that goes on.
        signal.signal(signal.SIGINT, previous)
    if interrupted is not None and interrupted.is_set():
        raise KeyboardInterrupt


@contextmanager
def _calls_compiled(network: nn.Module) -> Iterator[None]:
    """Calls of a network in this block go to compiled code."""
    # In place, so that each weight keeps its name. The last batch of a pass is smaller and has code of its own, for
    # code for batches of any size is slower.
    network.compile(dynamic=False)
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        raise StforecastError(
            ErrorKind.BACKEND,
            f"torch.compile cannot write code for the network here ({' '.join(str(error).splitlines()[:2])}); on a "
            "CPU it wants a C++ compiler; fit with compiled=False",
        ) from error
    finally:
        network._compiled_call_impl = None


def train(
    network: nn.Module,
    training: Windows,
    validation: Windows,
    config: TrainingConfig,
    *,
    context: Context,
    describe: Callable[[Tensor], str],
    weights: ErrorWeights | None = None,
    run: Run | None = None,
    trainer_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> TrainingRecord:
    """The record of fitting `network` in place; it ends with the weights of the best epoch on the validation windows.

    Args:
        network: maps (batch, time, channel, y, x) to what follows.
        training: the windows to learn from, their horizon `rollout_steps` times that of the validation windows.
        validation: the windows that choose the weights.
        config: how to learn.
        context: what the network is told of windows besides.
        describe: the times of windows, from their rows, for the message of a loss that is not finite.
        weights: of square errors; all alike by default.
        run: where to keep checkpoints and the table of epochs; a fit that is there already is gone on with.
        trainer_options: what else to tell `lightning.Trainer`: devices, strategy, precision, logger, callbacks …
        progress: whether to draw a progress bar.

    Raises:
        StforecastError: TRAIN_DIVERGED, naming epoch, batch and windows, when loss or gradient are not finite; or after
            an epoch without a finite validation loss; RESUME_MISMATCH, naming what differs, if the run was begun with
            another configuration, other data, another version, precision or number of processes; ARGUMENT for an option
            that is not the caller's, or that would give another network than the one that is saved; MEMORY_BUDGET if
            there is too little memory; BACKEND if the network cannot be compiled; DISK_FULL, PERMISSION or IO_ERROR for
            a checkpoint that cannot be written, and those before are intact.
    """
    options = dict(trainer_options or {})
    ours = [name for name in _OUR_OPTIONS if name in options]
    if ours:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{', '.join(ours)} cannot be told to Lightning; TrainingConfig settles that"
        )
    keep_freed_memory()
    # Depthwise convolutions are faster, forward and backward, where the channels of a cell lie side by side.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation lacks it
    keep = _KeepBest(None if run is None else run.folder / "metrics.csv")
    callbacks: list[Callback] = [keep, *([RichProgressBar(refresh_rate=5)] if progress else [])]
    if config.weight_averaging:
        callbacks.append(_averaging(config.weight_averaging))
    if config.patience is not None:
        # Behind the validation: at an epoch's end Lightning would judge it only after its checkpoint is written.
        callbacks.append(
            _Patience("validation_loss", patience=config.patience, check_finite=False, check_on_train_epoch_end=False)
        )
    checkpoints = None if run is None else _Checkpoints(run)
    if checkpoints is not None:
        callbacks.append(checkpoints)
    callbacks += options.pop("callbacks", [])
    quiet = {"enable_progress_bar": progress, "enable_model_summary": False}
    windows = {"train": training, "validation": validation}
    module = _Module(network, windows, context, config, weights or ErrorWeights(), describe)
    with _quiet(), settings_kept():
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            callbacks=callbacks,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            plugins=[WholeFiles()],
            **quiet | {"devices": 1, "logger": False, "log_every_n_steps": 10} | options,
        )
        _check_trainer(trainer)
        resumed = None
        if checkpoints is not None:
            run = checkpoints.run = checkpoints.run.told(
                processes=trainer.world_size,
                precision=trainer.precision,
                accumulate_grad_batches=trainer.accumulate_grad_batches,
            )
            resumed = latest_checkpoint(run.checkpoints, run.fingerprint)
            if trainer.is_global_zero:
                run.write_down()
        with _catching(None if checkpoints is None else checkpoints.interrupted):
            try:
                compiled = _calls_compiled(network) if config.compiled else nullcontext()
                remedy = f"lower batch_size ({config.batch_size}) or take a smaller network"
                with without_tf32(), compiled, memory_named(remedy):
                    trainer.fit(module, ckpt_path=resumed, weights_only=True)
            except SystemExit as ended:
                # Lightning ends the whole process on Ctrl-C and SIGTERM, with a status that says nothing.
                if trainer.received_sigterm:
                    raise SystemExit(128 + signal.SIGTERM) from ended
                raise KeyboardInterrupt from ended
            if trainer.received_sigterm:
                # It fell behind the last step, where Lightning does not look any more.
                raise SystemExit(128 + signal.SIGTERM)
    if not keep.weights:
        raise StforecastError(
            ErrorKind.TRAIN_DIVERGED,
            f"no epoch had a finite validation loss ({keep.losses('validation_loss')}); lower learning_rate "
            f"({config.learning_rate:g})",
        )
    network.load_state_dict(keep.weights)
    network.cpu().eval()
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return TrainingRecord(
        keep.losses("training_loss"), keep.losses("validation_loss"), keep.best_epoch, round(keep.all_seconds, 1)
    )


def _check_trainer(trainer: lightning.Trainer) -> None:
    """Refuse what Lightning can do and a fit cannot.

    Raises:
        StforecastError: ARGUMENT, naming the option.
    """
    if trainer.precision not in _PRECISIONS:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"precision must be {' or '.join(map(repr, _PRECISIONS))}, not {trainer.precision!r}: weights and tables "
            "are kept in float32, and the range of float16 is too small for gradients as they are clipped here",
        )
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise StforecastError(
            ErrorKind.ARGUMENT,
            "a strategy that forks or spawns its processes brings nothing back from them; take strategy='ddp' in a "
            "script, which starts each process by running the script",
        )


def _averaging(decay: float) -> WeightAveraging:
    """An exponential moving average of the weights whose decay grows to `decay`."""

    def average(averaged: Tensor, current: Tensor, number: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        step = float(number)
        return averaged.lerp(current, 1 - min(decay, (1 + step) / (10 + step)))

    return WeightAveraging(avg_fn=average)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's advice to itself: on loggers, on workers for a loader that gathers in memory, on devices."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
