"""A TAU on a GPU by several ways against a plain build of the published one: throughput and peak memory, as a table.

It needs torch and the modules of this package that know nothing else, so it runs where no zarr is. All ways of a case
are in one process and take turns. Without a GPU `--device cpu --quick` shows that it runs; its figures say nothing.
"""

import argparse
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from network import SHAPES, Case
from published_tau import PublishedTAU, draw, published_loss
from torch import Tensor, nn

from stforecast.models.losses import forecast_loss
from stforecast.models.tau import TAU

WAYS = (
    "published, float32",
    "published, bfloat16",
    "stforecast, float32",
    "stforecast, bfloat16",
    "stforecast, bfloat16, compiled",
)


def cases(*, quick: bool) -> list[Case]:
    sizes = {True: (2,) if quick else (16, 128), False: (2,) if quick else (1, 16, 256)}
    return [
        Case(f"{name}, {'training' if training else 'forecast'}, batch {batch}", shape, batch, training)
        for training in (True, False)
        for name, shape in SHAPES.items()
        for batch in sizes[training]
    ]


def built(case: Case, way: str, device: torch.device) -> nn.Module:
    """A network with the same weights for each way."""
    torch.manual_seed(0)
    reference = PublishedTAU(case.shape[:2])
    draw(reference)
    network: nn.Module = reference
    if way.startswith("stforecast"):
        network = TAU(history=case.shape[0], channels=case.shape[1])
        network.load_state_dict(reference.state_dict())
        network = network.to(memory_format=torch.channels_last)
    return network.to(device)


def call_of(case: Case, way: str, device: torch.device) -> Callable[[], Tensor]:
    """One forecast or one step of training."""
    network, is_ours = built(case, way, device), way.startswith("stforecast")
    network.train(case.training)
    run: Any = torch.compile(network) if "compiled" in way else network
    generator = torch.Generator().manual_seed(1)
    frames, target = (torch.randn(case.batch, *case.shape, generator=generator).to(device) for _ in range(2))

    def precision() -> Any:
        return torch.autocast(device.type, torch.bfloat16) if "bfloat16" in way else nullcontext()

    if not case.training:

        def forecast() -> Tensor:
            with torch.inference_mode(), precision():
                return run(frames)

        return forecast
    loss_of = forecast_loss if is_ours else published_loss
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True if is_ours else None)

    def step() -> Tensor:
        optimizer.zero_grad()
        with precision():
            output = run(frames)
        # The divergence is not finite in 16 bits.
        loss: Tensor = loss_of(output.float(), target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def seconds_of(call: Callable[[], Tensor], device: torch.device, calls: int) -> float:
    """Seconds a call, of several that are waited for together."""
    wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - began) / calls


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_of(call: Callable[[], Tensor], device: torch.device) -> str:
    """The most memory that was allocated during a call, networks of the other ways not counted."""
    if device.type != "cuda":
        return "-"
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    wait(device)
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"


def rows(case: Case, device: torch.device, repeats: int, calls: int, ways: list[str]) -> Iterator[str]:
    run = {way: call_of(case, way, device) for way in ways}
    for call in run.values():
        for _ in range(2 if device.type == "cpu" else 10):
            call()
    peaks = {way: peak_of(call, device) for way, call in run.items()}
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, call in run.items():
            took[way].append(seconds_of(call, device, calls))
    for way in ways:
        plain, half = (
            sorted(before / after for before, after in zip(took[against], took[way], strict=True))
            for against in WAYS[:2]
        )
        yield (
            f"| {case.name} | {way} | {case.batch / median(took[way]):.1f} | **{median(plain):.2f}** "
            f"({plain[0]:.2f}-{plain[-1]:.2f}) | {median(half):.2f} | {peaks[way]} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that it runs")
    parser.add_argument("--quick", action="store_true", help="one small batch of each, few repeats, nothing compiled")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that this torch can use; see --device")
    warnings.simplefilter("ignore")
    card = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    print(f"{card}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}\n")
    print("| case | way | samples/s | against published, float32 (spread) | against bfloat16 | peak MiB |")
    print("|---|---|---|---|---|---|")
    ways = list(WAYS[:-1] if arguments.quick else WAYS)
    repeats, calls = (2, 1) if arguments.quick else (7, 20)
    for case in cases(quick=arguments.quick):
        if arguments.only in case.name:
            for row in rows(case, device, repeats, calls, ways):
                print(row, flush=True)


if __name__ == "__main__":
    main()
