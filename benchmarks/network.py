"""A TAU by several ways against a plain build of the published one, in inference and training: a Markdown table.

Each way runs in a process of its own, for what becomes of freed memory is set for a whole process; they take turns at
every measurement. The reference is torch as it comes: float32, no setting touched.
"""

import argparse
import importlib.util
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

# Waiting threads are not to take the cores from the working ones where other processes run too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from published_tau import PublishedTAU, draw, published_loss
from torch import Tensor, nn

from stforecast.allocation import keep_freed_memory
from stforecast.models import inference
from stforecast.models.inference import CheckedNetwork
from stforecast.models.losses import forecast_loss
from stforecast.models.tau import TAU

THREADS = 2
SHAPES = {"TaxiBJ 4x2x32x32": (4, 2, 32, 32), "t2m 12x1x32x64": (12, 1, 32, 64)}
REFERENCE = "published, eager"
NEEDS = {
    "openvino": ("openvino",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "int8": ("openvino", "nncf"),
}


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        name: what the table calls it.
        shape: (t, c, y, x) of a sample.
        batch: samples a call.
        training: whether a call is a step of training.
    """

    name: str
    shape: tuple[int, int, int, int]
    batch: int
    training: bool = False


@dataclass(frozen=True)
class Turn:
    """One measurement: seconds of the clock and of all threads' CPU, and the output of an inference."""

    seconds: float
    cpu_seconds: float
    output: Tensor | None


def ways(case: Case) -> list[str]:
    """What is compared, the reference first."""
    if case.training:
        return [REFERENCE, "stforecast: kept memory", "stforecast: and channels last, fused Adam"]
    there = [name for name, packages in NEEDS.items() if all(map(importlib.util.find_spec, packages))]
    if shutil.which("c++") is not None:
        there.append("compiled")
    return [
        REFERENCE,
        "published, kept memory",
        "stforecast eager",
        "stforecast folded",
        *(f"stforecast {name}" for name in there),
    ]


def weights(case: Case) -> dict[str, Tensor]:
    """The same for each way."""
    torch.manual_seed(0)
    network = PublishedTAU(case.shape[:2])
    if not case.training:
        draw(network)
    return network.state_dict()


def samples(case: Case, *, seed: int = 1) -> Tensor:
    return torch.randn(case.batch, *case.shape, generator=torch.Generator().manual_seed(seed))


def forecasts(case: Case, way: str) -> Callable[[], Tensor]:
    if way.startswith("published"):
        network: nn.Module = PublishedTAU(case.shape[:2])
    else:
        network = TAU(history=case.shape[0], channels=case.shape[1])
    network.load_state_dict(weights(case))
    if way != REFERENCE:
        keep_freed_memory()
    network.eval()
    backend = way.split()[-1]
    # Weights that were drawn and not learnt need not bear 8 bits; they take as long.
    inference.COARSE_TOLERANCE = math.inf
    run = network if way.startswith("published") else CheckedNetwork(network, backend)  # type: ignore[arg-type]
    frames = samples(case)

    def call() -> Tensor:
        with torch.inference_mode():
            return run(frames)

    return call


def training(case: Case, way: str) -> Callable[[], None]:
    is_reference, is_whole = way == REFERENCE, "fused" in way
    network = PublishedTAU(case.shape[:2]) if is_reference else TAU(history=case.shape[0], channels=case.shape[1])
    network.load_state_dict(weights(case))
    if not is_reference:
        keep_freed_memory()
    if is_whole:
        network.to(memory_format=torch.channels_last)
    loss = published_loss if is_reference else forecast_loss
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True if is_whole else None)
    history, target = samples(case), samples(case, seed=2)

    def call() -> None:
        optimizer.zero_grad()
        loss(network(history), target).backward()
        optimizer.step()

    return call


def work(case: Case, way: str, pipe: Connection) -> None:
    """One way's process: measures once each time it is asked."""
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    call = (training if case.training else forecasts)(case, way)
    call()
    pipe.send("ready")
    while pipe.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        output = call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        pipe.send(Turn(wall, cpu, output))


@contextmanager
def started(case: Case, chosen: list[str]) -> Iterator[dict[str, Connection]]:
    """A process for each way, ready to measure."""
    context = get_context("spawn")
    pipes, processes = {}, []
    for way in chosen:
        pipes[way], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(case, way, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes[way].recv()  # one after the other, so that none disturbs another's first call
    try:
        yield pipes
    finally:
        for pipe in pipes.values():
            pipe.send(None)
        for process in processes:
            process.join()


def measured(case: Case, repeats: int, chosen: list[str]) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {way: [] for way in chosen}
    with started(case, chosen) as pipes:
        for _ in range(repeats):
            for way, pipe in pipes.items():
                pipe.send(True)
                turns[way].append(pipe.recv())
    return turns


def rows(case: Case, repeats: int, chosen: list[str]) -> Iterator[str]:
    turns = measured(case, repeats, chosen)
    reference = turns[REFERENCE]
    for way, some in turns.items():
        wall, cpu = (median(getattr(turn, name) for turn in some) for name in ("seconds", "cpu_seconds"))
        # Of each round, so that what else the machine does in the meantime falls on both.
        ratios = sorted(before.cpu_seconds / turn.cpu_seconds for before, turn in zip(reference, some, strict=True))
        clock = median(before.seconds / turn.seconds for before, turn in zip(reference, some, strict=True))
        error = ""
        if some[0].output is not None:
            expected = reference[0].output
            error = f"{(some[0].output - expected).abs().max() / expected.abs().max():.1e}"
        yield (
            f"| {case.name} | {way} | {case.batch / wall:.1f} | {case.batch / cpu:.1f} | **{median(ratios):.2f}** "
            f"({ratios[0]:.2f}-{ratios[-1]:.2f}) | {clock:.2f} | {error} |"
        )


def cases(*, quick: bool) -> list[Case]:
    taxi, weather = SHAPES
    inferences = [(taxi, 1), (taxi, 8)] if quick else [(taxi, 1), (taxi, 8), (taxi, 32), (weather, 8)]
    steps = [] if quick else [(taxi, 16), (weather, 8)]
    return [Case(f"{name}, batch {batch}", SHAPES[name], batch) for name, batch in inferences] + [
        Case(f"{name}, training, batch {batch}", SHAPES[name], batch, training=True) for name, batch in steps
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small cases, few repeats")
    parser.add_argument("--repeats", type=int, help="measurements of each way (9, quick 3)")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--way", default="", help="ways whose name holds this, beside the reference")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (3 if arguments.quick else 9)
    print("| case | way | samples/s | samples/CPU s | ratio by CPU time (spread) | by the clock | largest error |")
    print("|---|---|---|---|---|---|---|")
    for case in cases(quick=arguments.quick):
        chosen = [way for way in ways(case) if way == REFERENCE or arguments.way in way]
        if arguments.only in case.name and len(chosen) > 1:
            for row in rows(case, repeats, chosen):
                print(row, flush=True)


if __name__ == "__main__":
    main()
