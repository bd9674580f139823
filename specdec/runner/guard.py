"""The inside walls of a worker process: its pipes to itself, its end when its parent ends, its share of RAM."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO

from specdec.runner.wire import Message, receive

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd")


def take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """(commands, answers): the process's stdin and stdout, moved to where no strategy or library finds them.

    Whatever is printed goes to stderr, the log; whatever reads stdin finds it empty. The copies are not inherited by
    processes that are started from here, so that the pipes close when this process ends.
    """
    commands, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return commands, answers


def follow_parent(parent: int, commands: IO[bytes]) -> queue.SimpleQueue[Message]:
    """Commands as they come; the process ends at once when its parent does, even in the middle of a generation.

    A thread sees the pipe close. A thread needs the interpreter, which code that hangs in C may keep: on Linux the
    kernel ends the process then; elsewhere the time limit does (``time_limit``).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it had ended before
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    faulthandler.enable(all_threads=False)
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def read() -> None:
        while (message := receive(commands)) is not None:
            messages.put(message)
        os._exit(0)

    threading.Thread(target=read, name="commands", daemon=True).start()
    return messages


def time_limit(seconds: float) -> None:
    """End this process ``seconds`` from now, with every thread's traceback in the log, unless called again; 0: no end.

    faulthandler's watchdog does it, which needs no interpreter: a loop in C is ended too.
    """
    if seconds > 0:
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def limit_ram(limit: int) -> None:
    """Let this process take ``limit`` bytes beyond what it has: then allocations fail in it, instead of the machine.

    Linux only. RLIMIT_DATA counts private writable memory: heaps, caches, weights that are not file-mapped (RLIMIT_AS
    would count those too). Not set where a GPU driver is: drivers map memory as they like. There, and on other systems,
    the parent watches; and should the kernel have to choose what to end, it is told to choose this process.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if any(Path(device).exists() for device in _GPU_DRIVERS):
        return
    import resource

    with contextlib.suppress(ValueError, OSError):  # a lower hard limit is in force already
        allowed = _data_bytes() + limit
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def _data_bytes() -> int:
    """Private writable memory of this process now, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
