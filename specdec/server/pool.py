"""The llama-servers of a run: as many at a time as memory holds, the longest unused one ended first.

On a CPU the weights are mapped files, whose pages all processes share; what a further server costs is then its caches
and buffers. On a GPU each holds its weights anew. So nothing is assumed: a new one is started beside those that run only
if the largest of them, as measured, would fit once more, with some room; else one of them ends first.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from specdec.environment import gpus
from specdec.errors import SpecdecError
from specdec.llama.accounting import buffers
from specdec.server.process import Binary, Server
from specdec.types import MemoryItem

_ROOM = 1.2
_SPARE_BYTES = 512 * 2**20


@dataclass(slots=True)
class Resident:
    """A running server. ``vram`` is what the GPUs' memory in use grew by when it started, bytes; ``told`` the buffers
    that its log names; ``used`` counts asks."""

    server: Server
    vram: int
    told: list[MemoryItem] = field(default_factory=list)
    used: int = 0


@dataclass(slots=True)
class Pool:
    """Servers by name. Use ``get`` before each ask: the one that comes back runs."""

    binary: Binary
    logs: Path
    announce: Callable[[str], None]
    residents: dict[str, Resident] = field(default_factory=dict)  # in the order of their last use
    _told: bool = False

    def get(self, name: str, arguments: list[str]) -> Resident:
        """The server ``name``, started with ``arguments`` unless it runs."""
        resident = self.residents.pop(name, None)
        if resident is not None and not resident.server.running:
            resident.server.close()
            resident = None
        if resident is None:
            while self.residents and not self._fits_another():
                self._end_oldest()
            resident = self._start(name, arguments)
        self.residents[name] = resident
        return resident

    def drop(self, name: str) -> None:
        """End a server; the next ``get`` starts it anew."""
        resident = self.residents.pop(name, None)
        if resident is not None:
            resident.server.close()
            self._keep_log(resident.server)

    def keep_logs(self, folder: Path) -> None:
        """From now on logs lie in ``folder``: what there is already at once, the rest of it when its server ends."""
        if folder != self.logs:
            folder.mkdir(parents=True, exist_ok=True)
            self.logs = folder
            for resident in self.residents.values():
                self._keep_log(resident.server)

    def _keep_log(self, server: Server) -> None:
        if server.log.parent != self.logs:
            shutil.copyfile(server.log, self.logs / server.log.name)

    def close(self) -> None:
        """End all of them."""
        for name in list(self.residents):
            self.drop(name)

    def _start(self, name: str, arguments: list[str]) -> Resident:
        before = _vram_used()
        log = self.logs / f"llama-server-{_file_name(name)}.log"
        try:
            server = Server(self.binary, arguments, log)
        except SpecdecError:
            if not self.residents:
                raise
            while self.residents:  # it may have been memory that it lacked
                self._end_oldest()
            before = _vram_used()
            server = Server(self.binary, arguments, log)
        return Resident(server, max(0, _vram_used() - before), buffers(server.printed()))

    def _end_oldest(self) -> None:
        if not self._told:
            self.announce(f"llama-server: {len(self.residents)} configurations fit in memory: they are started in turn")
            self._told = True
        self.drop(next(iter(self.residents)))

    def _fits_another(self) -> bool:
        ram = max(_private_bytes(r.server.pid) for r in self.residents.values())
        vram = max(r.vram for r in self.residents.values())
        free = [g["memory_bytes"] - g["memory_used_bytes"] for g in gpus() if g["memory_bytes"]] if vram else []
        return psutil.virtual_memory().available > ram * _ROOM + _SPARE_BYTES and (
            not vram or sum(free) > vram * _ROOM + _SPARE_BYTES
        )


def _private_bytes(pid: int) -> int:
    """Memory that only this process holds: mapped weights are shared and do not count."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.NoSuchProcess:
        return 0


def _vram_used() -> int:
    return sum(g["memory_used_bytes"] or 0 for g in gpus())


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in label)[:80].strip("_")
