"""A llama-server binary and the processes made from it: started on loopback, waited for, never left behind."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from specdec.errors import ServerDied, SpecdecError

VARIABLE = "SPECDEC_LLAMA_SERVER"
START_TIMEOUT_S = 600.0
_NAME = "llama-server"
_INSTALL = f"Give --llama-server PATH, set {VARIABLE}, or put {_NAME} on PATH (llama.cpp's build/bin/{_NAME})."
_OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")
_TYPES = re.compile(r"^--spec-type\s+(\S+)", re.MULTILINE)
_VERSION = re.compile(r"version: (.+)")
_TELLING = re.compile(r"error|fail|unable|cannot|assert|abort|terminat|invalid|unknown", re.IGNORECASE)
_TRIES = 3
_LOG_BYTES, _LOG_LINES = 200_000, 40
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Binary:
    """A llama-server that answered: where it lies, which version, which options and kinds of speculation it knows."""

    path: Path
    version: str
    options: frozenset[str]
    spec_types: frozenset[str]

    def require(self, arguments: list[str]) -> None:
        """Refuse a command line that holds an option which this build does not know."""
        missing = [a for a in arguments if a.startswith("-") and _OPTION.fullmatch(a) and a not in self.options]
        if missing:
            raise SpecdecError(f"{self.path} ({self.version}) has no option {missing[0]}.", "Use a newer llama.cpp.")


def find_binary(given: str = "") -> Binary:
    """The llama-server to use: ``given``, else the variable SPECDEC_LLAMA_SERVER, else the one on PATH."""
    named = given or os.environ.get(VARIABLE, "")
    found = shutil.which(named or _NAME)
    if found is None:
        origin = "--llama-server" if given else VARIABLE
        what = f"{origin} {named}: there is no such program." if named else f"{_NAME} is not found."
        raise SpecdecError(what, _INSTALL)
    stat = os.stat(found)
    return _inspect(Path(found).resolve(), stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _inspect(path: Path, _mtime: int) -> Binary:
    version = _VERSION.search(_output(path, "--version"))
    if version is None:
        raise SpecdecError(f"{path} does not tell a version: it is no {_NAME}.", _INSTALL)
    help_text = _output(path, "--help")
    types = _TYPES.search(help_text)
    if types is None:
        raise SpecdecError(f"{path} ({version[1]}) has no --spec-type: it is too old.", "Use a newer llama.cpp.")
    return Binary(path, version[1].strip(), _options(help_text), frozenset(types[1].split(",")))


def _options(help_text: str) -> frozenset[str]:
    """The options in ``--help``: each entry begins a line; those that were removed say so in their description."""
    known: set[str] = set()
    for entry in re.split(r"^(?=-)", help_text, flags=re.MULTILINE)[1:]:
        if "has been removed" not in " ".join(entry.split()):
            known.update(_OPTION.findall(_head(entry)))
    return frozenset(known)


def _head(entry: str) -> str:
    """The names of an entry: its first line up to the description, which two spaces set off."""
    return re.split(r"(?<=[^,\s])\s{2,}(?=\S)", entry.splitlines()[0], maxsplit=1)[0]


def _output(path: Path, option: str) -> str:
    try:
        done = subprocess.run(
            [str(path), option], capture_output=True, text=True, errors="replace", timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SpecdecError(f"{path} {option} cannot be run: {error}.", _INSTALL) from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise SpecdecError(f"{path} {option} ended with {done.returncode}: {last[:200]}.", _INSTALL)
    return done.stdout + done.stderr


class Server:
    """One running llama-server, alone on its port, ready when this returns.

    It ends with ``close``, with this process, however that ends (Linux: also when it is killed), and when it cannot be
    reached in time.

    Args:
        binary: its program.
        arguments: its options but for host and port.
        log: everything that it prints is appended to this file.
        timeout_s: how long loading may take.
    """

    def __init__(self, binary: Binary, arguments: list[str], log: Path, timeout_s: float = START_TIMEOUT_S) -> None:
        binary.require(arguments)
        self.log = log
        self._timeout_s = timeout_s
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        for attempt in range(_TRIES):
            self.port = _free_port()
            command = [str(binary.path), *arguments, "--host", "127.0.0.1", "--port", str(self.port)]
            self._offset = log.stat().st_size if log.exists() else 0
            with open(log, "ab") as file:
                self.process = _start(command, file)
            atexit.register(self.close)
            try:
                self._wait()
                break
            except BaseException as error:
                self.close()
                taken = "bind" in self.complaint and isinstance(error, SpecdecError)
                if not taken or attempt == _TRIES - 1:
                    raise
        self.start_s = time.perf_counter() - began

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def complaint(self) -> str:
        """The first line of this process's log that tells of a fault, else its last line."""
        lines = self.printed()
        telling = [line for line in lines if _TELLING.search(line)]
        return (telling or lines[-1:] or ["it printed nothing"])[0].strip()[:240]

    def printed(self) -> list[str]:
        """The last lines that this process printed."""
        with open(self.log, "rb") as file:
            file.seek(self._offset)
            text = file.read()[-_LOG_BYTES:].decode("utf-8", "replace")
        return [line for line in text.splitlines() if line.strip()]

    def death(self) -> ServerDied:
        """How it ended, for the user. Call it when ``running`` is False."""
        code = self.process.wait()
        try:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        except ValueError:
            how = f"ended with {code}"
        return ServerDied(f"llama-server {how}: {self.complaint}", f"Its log: {self.log}", self.printed()[-_LOG_LINES:])

    def close(self) -> None:
        """End it now. Nothing is lost: it holds no state of ours."""
        atexit.unregister(self.close)
        if self.running:
            self.process.kill()
        self.process.wait()

    def _wait(self) -> None:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the user has for the web
        limit = time.monotonic() + self._timeout_s
        while time.monotonic() < limit:
            if not self.running:
                raise self.death()
            try:
                with direct.open(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except urllib.error.HTTPError:  # 503: it is loading
                time.sleep(0.1)
            except OSError:
                time.sleep(0.05)
        raise SpecdecError(
            f"llama-server was not ready within {self._timeout_s:.0f} s: {self.complaint}", f"Its log: {self.log}"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start it in our process group, so that whoever ends the group ends it too, and without settings from the
    environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_ARG_")}
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            preexec_fn=_dies_with_parent(),
        )  # fmt: skip
    except OSError as error:
        raise SpecdecError(f"{command[0]} cannot be started: {error}.", _INSTALL) from error


def _dies_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes llama-server: ask Linux to kill it when this process is gone (prctl(2))."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before we asked
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
