"""Files that a fit goes on from: whole or not there, checked before use, and never unpickled into anything but data."""

import hashlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import faults_named, replacing

# A file is this mark, the SHA-256 of the rest, and the rest, so that one rename publishes state and sum together.
_MARK = b"stforecast checkpoint 1\n"
_DIGEST = hashlib.sha256().digest_size


class WholeFiles(CheckpointIO):
    """How Lightning writes and reads checkpoints here."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002  # Lightning's signature
        """Write a checkpoint whole or not at all.

        Raises:
            StforecastError: DISK_FULL, PERMISSION or IO_ERROR; the checkpoints before are intact.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        with faults_named(path), replacing(path) as temporary:
            temporary.write_bytes(_MARK + hashlib.sha256(content.getbuffer()).digest() + content.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002  # Lightning's signature
        """The checkpoint in a file.

        Raises:
            StforecastError: CKPT_CORRUPT if the file is not what was written; CKPT_UNSAFE if it holds other things than
                tensors and plain values.
        """
        content = Path(path).read_bytes()
        start = len(_MARK) + _DIGEST
        digest = content[len(_MARK) : start]
        if not content.startswith(_MARK) or hashlib.sha256(content[start:]).digest() != digest:
            raise StforecastError(
                ErrorKind.CKPT_CORRUPT, f"{path} is not what was written there (its SHA-256 differs); remove it"
            )
        try:
            loaded: dict[str, Any] = torch.load(
                io.BytesIO(content[start:]), map_location=map_location or "cpu", weights_only=True
            )
        except Exception as error:
            # The sum is right, so whatever torch's restricted reader will not make of the file was meant.
            raise StforecastError(
                ErrorKind.CKPT_UNSAFE, f"{path} holds more than tensors and plain values, so it is not read; remove it"
            ) from error
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def latest_checkpoint(folder: Path, fingerprint: Mapping[str, Any]) -> Path | None:
    """The newest checkpoint of a folder that is whole, if there is one; a damaged one is told of and passed over.

    Args:
        folder: where they are.
        fingerprint: what the fit is that wants to go on: configuration, data, versions.

    Raises:
        StforecastError: RESUME_MISMATCH, naming what differs, if it is of another fit.
    """
    for path in reversed(_whole(folder)):
        try:
            found = WholeFiles().load_checkpoint(path)["stforecast"]["fingerprint"]
        except StforecastError as error:
            warnings.warn(f"{error}; going on from the one before", stacklevel=2)
            continue
        names = sorted(found.keys() | fingerprint.keys())
        apart = [name for name in names if found.get(name) != fingerprint.get(name)]
        if apart:
            said = "; ".join(f"{name} was {found.get(name)}, now {fingerprint.get(name)}" for name in apart)
            raise StforecastError(
                ErrorKind.RESUME_MISMATCH,
                f"the fit in {folder.parent} was begun otherwise ({said}); take what it was begun with, or another "
                "folder",
            )
        return path
    return None


def prune(folder: Path, *, keep: int) -> None:
    """Remove all but the newest checkpoints, and what a process that was killed left of one."""
    for path in [*_whole(folder)[:-keep], *folder.glob(".*.ckpt")]:
        path.unlink(missing_ok=True)


def _whole(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first, without those that are being written, which begin with a dot."""
    return sorted(folder.glob("[!.]*.ckpt"))
