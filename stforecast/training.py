"""Fitting a network to windows with Lightning; the validation period chooses the weights."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import nn

from stforecast.errors import ErrorKind, StforecastError
from stforecast.models.losses import forecast_loss
from stforecast.models.tau import rollout
from stforecast.networks import Context
from stforecast.windows import Windows

Weights = dict[str, torch.Tensor]
ToldBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is fitted.

    Attributes:
        epochs: passes over the training windows.
        batch_size: windows a step.
        learning_rate: the highest of a cosine schedule with a short linear warm-up, for Adam.
        divergence_weight: alpha of the differential divergence regularization (arXiv:2206.12126 has 0.1).
        divergence_reduction: "mean" as published in code, "sum" as in the paper's formula.
        gradient_clip: the largest norm of a step's gradient.
        seed: what initial weights, order of windows and stochastic depth follow from.
    """

    epochs: int = 30
    batch_size: int = 16
    learning_rate: float = 1e-3
    divergence_weight: float = 0.1
    divergence_reduction: Literal["mean", "sum"] = "mean"
    gradient_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "gradient_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be above 0, not {getattr(self, name)}")
        if self.divergence_reduction not in ("mean", "sum"):
            raise StforecastError(
                ErrorKind.ARGUMENT, f"divergence_reduction must be 'mean' or 'sum', not {self.divergence_reduction!r}"
            )


@dataclass(frozen=True)
class TrainingRecord:
    """What a fit did.

    Attributes:
        training_loss: the mean loss of each epoch, in normalized units.
        validation_loss: the mean square error over the validation windows after each epoch, in normalized units.
        best_epoch: the epoch, counted from 0, whose weights were kept.
        seconds: how long it took.
    """

    training_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int
    seconds: float


class _Module(lightning.LightningModule):
    """A network with its loss and its optimizer, as Lightning wants them."""

    def __init__(
        self, network: nn.Module, horizon: int, config: TrainingConfig, describe: Callable[[torch.Tensor], str]
    ) -> None:
        super().__init__()
        self.network = network
        self.horizon = horizon
        self.config = config
        self.describe = describe

    def training_step(self, batch: ToldBatch, index: int) -> torch.Tensor:
        history, target, starts, context = batch
        loss: torch.Tensor = forecast_loss(
            rollout(self.network, history, self.horizon, context=context),
            target,
            alpha=self.config.divergence_weight,
            reduction=self.config.divergence_reduction,
        )
        if not torch.isfinite(loss):
            raise StforecastError(
                ErrorKind.TRAIN_DIVERGED,
                f"the loss became {loss.item()} in epoch {self.current_epoch}, batch {index} (windows that begin "
                f"at {self.describe(starts)}); lower learning_rate ({self.config.learning_rate:g}) or look at them",
            )
        self.log("training_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(history))
        return loss

    def validation_step(self, batch: ToldBatch, index: int) -> None:  # noqa: ARG002  # Lightning passes it by name
        history, target, _, context = batch
        error = nn.functional.mse_loss(rollout(self.network, history, self.horizon, context=context), target)
        self.log("validation_loss", error, prog_bar=True, batch_size=len(history))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        warm_up = max(steps // 20, 1)
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=warm_up)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - warm_up, 1))
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warm_up])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _KeepBest(Callback):
    """Remembers each epoch's losses and the weights with the lowest validation loss."""

    def __init__(self) -> None:
        self.training_loss: list[float] = []
        self.validation_loss: list[float] = []
        self.best_epoch = -1
        self.weights: Weights = {}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        training, validation = (float(trainer.callback_metrics[f"{name}_loss"]) for name in ("training", "validation"))
        if validation < min(self.validation_loss, default=math.inf):
            self.best_epoch = trainer.current_epoch
            network = pl_module.network
            assert isinstance(network, nn.Module)
            self.weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        self.training_loss.append(training)
        self.validation_loss.append(validation)


class _Epochs:
    """Windows with what the network is told of them, as an iterable that Lightning takes; each pass is another."""

    def __init__(self, windows: Windows, context: Context) -> None:
        self.windows = windows
        self.context = context
        self.passes = 0

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[ToldBatch]:
        batches = self.windows.epoch(self.passes)
        self.passes += 1
        length = self.windows.history + self.windows.horizon
        for history, target, starts in batches:
            yield history, target, starts, self.context.of(starts.numpy(), length)


def train(
    network: nn.Module,
    training: Windows,
    validation: Windows,
    config: TrainingConfig,
    *,
    context: Context,
    describe: Callable[[torch.Tensor], str],
    progress: bool = False,
) -> TrainingRecord:
    """The record of fitting `network` in place; it ends with the weights of the best epoch on the validation windows.

    Args:
        network: maps (batch, time, channel, y, x) to the same shape.
        training: the windows to learn from.
        validation: the windows that choose the weights.
        config: how to learn.
        context: what the network is told of windows besides.
        describe: the times of windows, from their rows, for the message of a loss that is not finite.
        progress: whether to draw a progress bar.

    Raises:
        StforecastError: TRAIN_DIVERGED, naming epoch, batch and windows, when the loss is not finite; or after an
            epoch without a finite validation loss.
    """
    started = time.monotonic()
    keep = _KeepBest()
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            # Windows are not split among processes yet, so several cards would all do the same work.
            devices=1,
            gradient_clip_val=config.gradient_clip,
            callbacks=[keep, *([RichProgressBar(refresh_rate=5)] if progress else [])],
            enable_progress_bar=progress,
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            module = _Module(network, training.horizon, config, describe)
            trainer.fit(module, _Epochs(training, context), _Epochs(validation, context))
        except SystemExit as ended:
            # Lightning ends the whole process on Ctrl-C, with a status that says nothing.
            raise KeyboardInterrupt from ended
    if not keep.weights:
        raise StforecastError(
            ErrorKind.TRAIN_DIVERGED,
            f"no epoch had a finite validation loss ({keep.validation_loss}); lower learning_rate "
            f"({config.learning_rate:g})",
        )
    network.load_state_dict(keep.weights)
    network.cpu().eval()
    return TrainingRecord(
        tuple(keep.training_loss), tuple(keep.validation_loss), keep.best_epoch, round(time.monotonic() - started, 1)
    )


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
