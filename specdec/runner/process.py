"""A worker process seen from outside: start it, talk to it, notice how it ends, end it.

A fresh interpreter, never a fork. It cannot outlive its parent (guard.py), and its log (llama.cpp's and whatever is
printed in it) is read as it comes, so that the last lines are there when it dies.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from time import monotonic
from typing import IO, Any, cast

import psutil

from specdec.errors import tells_of_memory
from specdec.runner.wire import Message, receive, send

LOG_LINES = 40
"""How many of its last log lines are kept with a failure."""

_START = (
    "import sys; sys.path[:] = sys.argv[3:]; from specdec.runner.worker import main;"
    " main(int(sys.argv[1]), int(sys.argv[2]))"
)
"""The parent's own import path is handed on: ``-m`` would put the current folder in front of it."""

_POLL_S = 0.25
"""How often the worker's RAM is looked at: some 50 microseconds each time."""

_GRACE_S = 5.0
"""The worker ends itself at its time limit, with tracebacks; so much later it is killed."""

_LATE = "timed out: no end within its time limit (--cell-timeout)"
_WATCHDOG = "Timeout ("
"""How faulthandler begins what it says when the worker ends itself for the time it took."""
_TELLING = re.compile(r"GGML_ASSERT|GGML_ABORT|CUDA error|terminate called|what\(\):|Error: ")
_WINDOWS = {3: "abort", 0xC0000005: "access violation", 0xC00000FD: "stack overflow", 0xC0000409: "abort"}


class WorkerLost(Exception):
    """The worker process ended, or had to be ended.

    Args:
        status: ``crashed``, ``out-of-memory`` or ``timed out``.
        error: what happened, one line.
        exit_code: as subprocess gives it: negative for a signal; None where it was ended from here.
        log: its last log lines.
    """

    def __init__(self, status: str, error: str, exit_code: int | None, log: list[str]) -> None:
        super().__init__(error)
        self.status, self.error, self.exit_code, self.log = status, error, exit_code, log


class WorkerProcess:
    """Start one. ``ram_limit``: bytes that it may take beyond what file-mapped weights need."""

    def __init__(self, ram_limit: int) -> None:
        self._ram_limit = ram_limit
        self._oom_kills = _oom_kills()
        command = [sys.executable, "-c", _START, str(os.getpid()), str(ram_limit), *sys.path]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        # No gdb at an assertion: its output would push the assertion itself out of the log, and take minutes.
        environment = {"GGML_NO_BACKTRACE": "1", **os.environ, "PYTHONIOENCODING": "utf-8:replace"}
        self._process = subprocess.Popen(command, **pipes, **_apart(), env=environment)
        self._commands = cast("IO[bytes]", self._process.stdin)
        self._messages: queue.Queue[Message | None] = queue.Queue()
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def send(self, message: Message) -> None:
        """Tell it to do something; raises ``WorkerLost`` where it is gone."""
        try:
            send(self._commands, message)
        except OSError:
            raise self._ended(late=False) from None

    def receive(self, limit_s: float) -> Message:
        """Its next message; ``WorkerLost`` where none comes within ``limit_s``, it ends, or it takes too much RAM."""
        began = monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                message = self._messages.get(timeout=min(_POLL_S, limit_s + _GRACE_S))
                if message is None:
                    raise self._ended(late=monotonic() - began >= limit_s)
                return message
            if monotonic() - began >= limit_s + _GRACE_S:
                raise self._killed("timed out", _LATE)
            if self._taken() > self._ram_limit:
                raise self._killed(
                    "out-of-memory", f"out of memory: it took more than {_mib(self._ram_limit)} of RAM (--ram-limit)"
                )

    def close(self, patience_s: float = 20.0) -> None:
        """Let it end by itself, but not longer than ``patience_s``; then, and where it has gone already, clean up."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            send(self._commands, {"close": True})
            self._process.wait(patience_s)
        self.kill()

    def kill(self) -> None:
        """End it, and what it started, now."""
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(1.0)  # a process that it started and that escaped may hold the log open
        with contextlib.suppress(OSError):
            self._commands.close()

    def _read(self, answers: IO[bytes]) -> None:
        with answers:
            while (message := receive(answers)) is not None:
                self._messages.put(message)
        self._messages.put(None)

    def _read_log(self, log: IO[bytes]) -> None:
        with log:
            for line in log:
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self.log.append(text[:500])

    def _taken(self) -> int:
        """Memory that is the worker's own and in RAM, bytes; 0 where it cannot be told."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{self._process.pid}/status").read_text()
                return sum(int(n) * 1024 for n in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", text, re.MULTILINE))
            return 0
        try:
            process = psutil.Process(self._process.pid)
            return int(process.memory_full_info().uss if sys.platform == "darwin" else process.memory_info().private)
        except psutil.Error:
            return 0

    def _killed(self, status: str, error: str) -> WorkerLost:
        self.kill()
        return WorkerLost(status, error, None, list(self.log))

    def _ended(self, late: bool) -> WorkerLost:
        """Why it ended by itself; ``late``: its time was up."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        code = self._process.poll()
        self.kill()
        lines = list(self.log)
        if late or any(line.startswith(_WATCHDOG) for line in lines):
            return WorkerLost("timed out", _LATE, code, lines)
        error = f"crashed: {_name(code)}"
        telling = [line for line in lines if _TELLING.search(line)]
        chosen = code == -9 and _oom_kills() > self._oom_kills  # the count is the whole machine's
        starved = tells_of_memory("\n".join(lines)) or chosen
        if starved:
            told = [line for line in lines if tells_of_memory(line)]
            said = told[-1] if told else "the kernel's out-of-memory killer chose it"
            return WorkerLost("out-of-memory", f"out of memory: {said[:200]} ({_name(code)})", code, lines)
        return WorkerLost("crashed", f"{error}: {telling[-1][:200]}" if telling else error, code, lines)


def automatic_ram_limit() -> int:
    """Bytes that a worker may take: what is free now, less a twentieth of the machine's RAM (at least 512 MiB)."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max", or no such group: the machine's figures hold
        total = min(total, int((group / "memory.max").read_text()))
        free = min(free, total - int((group / "memory.current").read_text()) + _cached(group))
    return max(0, free - max(512 << 20, total // 20))


def _cached(group: Path) -> int:
    """Bytes of a control group that are file cache, and go when memory is wanted."""
    fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(fields["inactive_file"]) + int(fields["active_file"])


def _apart() -> dict[str, Any]:
    """Out of the terminal's foreground group: Ctrl-C reaches the parent alone, and the whole group can be ended."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _oom_kills() -> int:
    """How often the kernel has ended a process for lack of memory since the machine started; 0 where it cannot tell."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("oom_kill ")).split()[1])
    return 0


def _name(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "not known how"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"{signal.Signals(-code).name} ({signal.strsignal(-code)})"
        return f"signal {-code}"
    known = _WINDOWS.get(code & 0xFFFFFFFF) if sys.platform == "win32" else None
    return f"exit code {code}" if known is None else f"{known} (exit code {code:#x})"


def _mib(n: int) -> str:
    return f"{n / 2**20:,.0f} MiB"
