"""Weights that OpenSTL trained, read without running anything that a file may hold.

Tan et al.: OpenSTL: A Comprehensive Benchmark of Spatio-Temporal Predictive Learning, NeurIPS 2023, arXiv:2306.11249.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import sha256
from stforecast.models.tau import TAU

Weights = dict[str, Tensor]

# "model." before the keys is Lightning's, "module." DistributedDataParallel's.
_PREFIXES = ("model.", "module.")

# Lightning's files carry test_mean and test_std as arrays. These are data: no code of the file's choosing is called.
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")),
    *(
        (getattr(multiarray, name), f"{module}.multiarray.{name}")
        for name in ("_reconstruct", "scalar")
        for module in ("numpy.core", "numpy._core")
    ),
]


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a state dict tell of the network, in the terms of `TAU`."""

    history: int
    channels: int
    hidden_spatial: int
    hidden_temporal: int
    spatial_layers: int
    temporal_layers: int
    mlp_ratio: float


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a TAU as OpenSTL wrote them.

    Attributes:
        weights: by the published names, float32; integers as they are.
        sizes: of the network that they belong to.
        sha256: of the file.
    """

    weights: Weights
    sizes: Sizes
    sha256: str

    @classmethod
    def read(cls, path: str | Path) -> "Checkpoint":
        """What a bare state dict, OpenSTL's latest.pth or Lightning's best.ckpt holds, its prefixes taken off.

        Only tensors, numbers, strings, lists, dicts and NumPy arrays are made (torch's weights_only); the zip's
        checksums are compared first.

        Raises:
            StforecastError: FILE_MISSING; CKPT_CORRUPT if the file is cut, damaged or holds a weight that is not
                finite; CKPT_UNSAFE, naming it, if it wants anything else made; CKPT_MISMATCH, listing keys, if it is
                not a TAU's.
        """
        path = Path(path)
        if not path.is_file():
            raise StforecastError(ErrorKind.FILE_MISSING, f"there is no file {path}; check the path")
        content = path.read_bytes()
        weights = _weights(_loaded(content, path), path)
        sizes = _sizes(weights, path)
        _check_shapes(weights, sizes, path)
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise StforecastError(
                    ErrorKind.CKPT_CORRUPT, f"{path}: {name} has values that are not finite; take another checkpoint"
                )
        return cls(weights, sizes, sha256(content))


def _loaded(content: bytes, path: Path) -> Any:
    if not content.startswith(b"PK"):
        return _made(content, path, ErrorKind.CKPT_CORRUPT)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            damaged = None if packed else archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise StforecastError(ErrorKind.CKPT_CORRUPT, f"{path} is cut or damaged ({error}); fetch it anew") from error
    if packed:
        raise StforecastError(
            ErrorKind.CKPT_UNSAFE, f"{path}: {packed[0]} is compressed, which torch never writes; it is not unpacked"
        )
    if damaged:
        raise StforecastError(
            ErrorKind.CKPT_CORRUPT, f"{path}: {damaged} is not what was written (its checksum differs); fetch it anew"
        )
    # Its checksums are right, so whatever cannot be made of it was meant.
    return _made(content, path, ErrorKind.CKPT_UNSAFE)


def _made(content: bytes, path: Path, otherwise: ErrorKind) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_ARRAYS):
            warnings.simplefilter("ignore")  # that other pickle protocols are seldom
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # Hostile bytes make the restricted reader raise anything.
        message = str(error)
        wanted = re.search(r"GLOBAL (\S+)", message)
        if wanted or "weights only" in message.lower():
            what = wanted.group(1).rstrip(".") if wanted else "more than plain values"
            raise StforecastError(
                ErrorKind.CKPT_UNSAFE,
                f"{path} asks for {what}, which is not made from a file; where the file can be trusted, write its "
                "weights alone: torch.save(checkpoint['state_dict'], path)",
            ) from error
        raise StforecastError(
            otherwise, f"{path} is no whole file of torch ({type(error).__name__}); fetch it anew"
        ) from error


def _weights(content: Any, path: Path) -> Weights:
    found = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(found, Mapping) or not found:
        raise StforecastError(
            ErrorKind.CKPT_MISMATCH, f"{path} holds a {type(found).__name__}, wanted a state dict or state_dict in one"
        )
    others = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise StforecastError(
            ErrorKind.CKPT_MISMATCH, f"{path} is no state dict: {_some(others)} are no tensors; name another file"
        )
    weights = {}
    for name, tensor in found.items():
        bare = str(name)
        while bare.startswith(_PREFIXES):
            bare = bare.split(".", 1)[1]
        weights[bare] = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
    return weights


def _sizes(weights: Weights, path: Path) -> Sizes:
    try:
        hidden_spatial, channels = weights["enc.enc.0.conv.conv.weight"].shape[:2]
        width = len(weights["hid.enc.0.block.layer_scale_1"])
        inside = len(weights["hid.enc.0.block.mlp.fc1.weight"])
        temporal_layers = _count(weights, "hid.enc.")
        return Sizes(
            history=width // hidden_spatial,
            channels=channels,
            hidden_spatial=hidden_spatial,
            hidden_temporal=len(weights[f"hid.enc.{temporal_layers - 1}.block.layer_scale_1"]),
            spatial_layers=_count(weights, "enc.enc."),
            temporal_layers=temporal_layers,
            mlp_ratio=inside / width,
        )
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise StforecastError(
            ErrorKind.CKPT_MISMATCH,
            f"{path} is no TAU of OpenSTL's: {error} is missing or has another shape; it has {_some(weights)}",
        ) from error


def _count(weights: Weights, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _check_shapes(weights: Weights, sizes: Sizes, path: Path) -> None:
    try:
        with torch.device("meta"):
            wanted = TAU(**asdict(sizes)).state_dict()
    except StforecastError as error:
        raise StforecastError(ErrorKind.CKPT_MISMATCH, f"{path} is no TAU of OpenSTL's: {error}") from error
    faults = []
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    if missing:
        faults.append(f"it lacks {_some(missing)}")
    if unexpected:
        faults.append(f"it has {_some(unexpected)} besides")
    faults += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ][:4]
    if faults:
        is_gated = any(name.endswith("spatial_gating_unit.fc.0.weight") for name in missing)
        remedy = "it may be gSTA's (SimVPv2), which is another network" if is_gated else "name a checkpoint of TAU"
        raise StforecastError(
            ErrorKind.CKPT_MISMATCH, f"{path} does not fit a TAU of its sizes: {'; '.join(faults)}; {remedy}"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
