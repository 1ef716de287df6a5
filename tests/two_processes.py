"""A fit by two processes, the second of which finds its checkpoints due at other steps; run by a test."""

import os
import sys
import time
from pathlib import Path

import torch

from stforecast import training
from stforecast.fitting import fit
from stforecast.networks import NetworkConfig


class Slow(training.Callback):
    """Steps long enough for checkpoints to be due within a pass."""

    def on_train_batch_start(self, *_: object) -> None:
        time.sleep(0.05)


if __name__ == "__main__":
    # Lightning starts the second process by running this file again.
    torch.set_num_threads(1)
    store, folder = map(Path, sys.argv[1:])
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    training._CHECKPOINT_SECONDS = 0.2 + 0.1 * rank
    model = fit(
        store,
        history=4,
        horizon=2,
        network=NetworkConfig(hidden_spatial=4, hidden_temporal=8, temporal_layers=2),
        training=training.TrainingConfig(epochs=2, batch_size=4),
        run=folder / "run",
        lightning={"accelerator": "cpu", "devices": 2, "strategy": "ddp", "callbacks": [Slow()]},
    )
    losses = " ".join(f"{loss:.9g}" for loss in model.training["validation_loss"])
    (folder / f"{rank}.txt").write_text(f"{model.weights_hash()} {losses}")
