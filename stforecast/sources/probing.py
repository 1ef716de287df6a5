"""Raw files are opened in a child process first: a crash or a hang there is a named fault here."""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from stforecast.errors import ErrorKind, StforecastError

# -P keeps the folder of the script, whose modules have common names, off the path.
COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("probe.py")))
LIMIT_S = 60.0


class Prober:
    """A child process that looks into one file after another, started when it is first needed.

    One child serves many files: to start one takes 0.2 s, a look some 3 ms. It ends by itself when nothing is asked of
    it for a while, and is started anew after a crash.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._inherited: subprocess.Popen[str] | None = None
        self._owner = 0

    def look(self, path: Path, *, limit_s: float = LIMIT_S) -> None:
        """Refuse a file that cannot be opened safely.

        Raises:
            StforecastError: FILE_TIMEOUT or FILE_FORMAT, naming the file, if the child hangs or crashes; else what the
                child found.
        """
        with self._lock:
            answer = self._ask(path, limit_s)
        fault = json.loads(answer)
        if fault is not None:
            kind, text = fault
            raise StforecastError(ErrorKind(kind), f"{path}{'' if text.startswith(':') else ' '}{text}")

    def close(self) -> None:
        """End the child."""
        if self._child is None or self._owner != os.getpid():
            return
        child, self._child = self._child, None
        atexit.unregister(self.close)
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # closing sends what the child did not live to read
                pipe.close()

    def _ask(self, path: Path, limit_s: float) -> str:
        while True:
            answer, status = self._ask_once(path, limit_s)
            # A child that ended of itself was idle for long, and has not seen this file.
            if answer or status != 0:
                break
        if answer:
            return answer
        if status is None:
            raise StforecastError(
                ErrorKind.FILE_TIMEOUT,
                f"{path} was not opened within {limit_s:g} s, it may be damaged or its disk away; fetch the file anew",
            )
        raise StforecastError(
            ErrorKind.FILE_FORMAT,
            f"{path} is damaged: a process that opened it to look died with status {status}; fetch the file anew",
        )

    def _ask_once(self, path: Path, limit_s: float) -> tuple[str, int | None]:
        """The child's answer, or how it died; None if it was stopped at the time limit."""
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(limit_s, stop)
        timer.start()
        try:
            child.stdin.write(json.dumps(str(path.absolute())) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
            timer.join()
        if answer and not late.is_set():
            return answer, 0
        status = child.wait()
        self.close()
        return answer, None if late.is_set() else status

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None or self._owner != os.getpid():  # a forked process must not share its parent's child
            self._inherited = self._child
            self._owner = os.getpid()
            atexit.register(self.close)
            self._child = subprocess.Popen(  # noqa: S603  this very interpreter and a file beside this one
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        return self._child


_prober = Prober()


def probe(path: Path) -> None:
    """Refuse a netCDF or HDF5 file that cannot be opened safely, whatever opening it does.

    Raises:
        StforecastError: FILE_FORMAT, FILE_TIMEOUT, FILE_BUSY, FILE_UNSAFE_HDF5 or FILE_TOO_LARGE, naming the file.
    """
    _prober.look(path)
