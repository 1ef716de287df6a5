"""What float32 means on a GPU, what computes a forecast, and what a fit sets for a whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions on a GPU are computed in float32 in this block; torch would take TF32, with three digits.

    Matrix products are in float32 by torch's own default, and stay as the caller has set them. So do convolutions where
    the caller has told torch of single operations (torch.backends.cudnn.conv.fp32_precision, from 2.9 on).
    """
    try:
        before = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        yield
        return
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def computed_on() -> str:
    """The device, instruction set and threads that networks are computed with in this process."""
    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    threads = torch.get_num_threads()
    return f"cpu ({torch.backends.cpu.get_cpu_capability()}), {threads} thread{'s' if threads > 1 else ''}"


@contextmanager
def settings_kept() -> Iterator[None]:
    """What Lightning sets for the whole process, if it is told to be deterministic, is as it was behind this block."""
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    tries_first = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(is_deterministic, warn_only=only_warns)
        torch.backends.cudnn.benchmark = tries_first
