"""What a strategy on a target takes, item by item, from headers alone."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.llama.gguf import Header
from specdec.registry import Planned
from specdec.rollback import Mode, snapshots_for
from specdec.spec import ModelOptions
from specdec.types import MemoryItem
from specdec.vram import memory as parts
from specdec.vram.overheads import CUDA_CONTEXT, KERNELS, PAGE_TABLE_SHARE

TARGET, PROCESS = "target", "process"


@dataclass(frozen=True, slots=True)
class Item:
    """One item: whose it is (``target``, ``process`` or a strategy's label), where (``GPU``, ``CPU``), what, bytes."""

    owner: str
    device: str
    kind: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Case:
    """A strategy as it would run: with this context, this way of rolling back."""

    planned: Planned
    n_ctx: int
    rollback: Mode = "auto"
    snapshots: int | None = None

    @property
    def label(self) -> str:
        """The strategy's."""
        return self.planned.label


def itemise(case: Case, header: Header, options: ModelOptions) -> list[Item]:
    """Everything that plain decoding or a strategy takes, as specdec's own engine allocates it.

    A strategy that drafts with the target's MTP layer has it loaded; the others have not. Raises ``SpecdecError`` where
    the strategy cannot serve this target, or the architecture's memory is not known.
    """
    strategy = case.planned.build()
    longest = strategy.longest_draft
    states = parts.recurrent(header, options)
    mode: Mode = case.rollback if longest else "auto"
    snapshots = snapshots_for(mode, longest, bool(states), case.snapshots)
    n_batch = max(min(options.batch_size, max(case.n_ctx, 32)), snapshots + 2)
    n_ubatch = max(min(options.ubatch_size, n_batch), snapshots + 2)
    rows = min(n_batch, longest + 1)
    hidden = n_batch if "hidden_states" in strategy.needs else 0
    target = parts.weights(header, options) + parts.kv(header, options, case.n_ctx) + states
    target += parts.compute_buffer(header, options, case.n_ctx, n_ubatch, rows)
    target += parts.output(header, rows, hidden)
    own = [MemoryItem(i.device, "snapshots", snapshots * i.bytes) for i in states if snapshots]
    if longest > snapshots:
        own += [MemoryItem("CPU" if mode == "checkpoint-host" else i.device, "checkpoint", i.bytes) for i in states]
    own += strategy.expected_memory(header, options, case.n_ctx)
    process = [] if options.gpu_layers == 0 else [("context", CUDA_CONTEXT), ("kernels", KERNELS)]
    if process and options.load_mode == "none":
        pinned = sum(i.bytes for i in target if (i.device, i.kind) == (parts.CPU, "weights"))
        process.append(("page table", pinned // PAGE_TABLE_SHARE))
    return [
        *(Item(TARGET, i.device, i.kind, i.bytes) for i in target),
        *(Item(case.label, i.device, i.kind, i.bytes) for i in own),
        *(Item(PROCESS, parts.GPU, kind, n) for kind, n in process),
    ]


def total(items: list[Item], device: str = parts.GPU) -> int:
    """Bytes on a device."""
    return sum(i.bytes for i in items if i.device == device)
