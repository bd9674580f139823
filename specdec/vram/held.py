"""What lies in memory for an arm, as llama.cpp and the strategy tell it: every byte once, with its owner."""

from __future__ import annotations

from collections.abc import Iterator

from specdec.arms import Arm
from specdec.llama.accounting import in_ram
from specdec.llama.fit import placed
from specdec.llama.gguf import whole_header
from specdec.llama.memory import LlamaMemory
from specdec.llama.model import LlamaModel, runs_on_gpu
from specdec.llama.target import LlamaTarget
from specdec.strategy import Strategy
from specdec.types import MemoryItem
from specdec.vram.items import TARGET, Item

MTP_WEIGHTS = "MTP weights"
"""The kind of the MTP layer's weights: loaded with the model, needed by a strategy."""


def beyond_plain(arm: Arm, strategy: Strategy, memory: LlamaMemory, longest: int) -> Iterator[MemoryItem]:
    """What the arm costs beyond plain decoding: the strategy's own items, snapshots, a checkpoint where a draft of
    ``longest`` tokens goes beyond these. The device ``target`` is that of the target's states, or of its weights."""
    yield from strategy.memory()
    if not memory.recurrent or not arm.longest_draft:
        return
    state = memory.checkpoint_bytes()
    if memory.snapshots:  # what llama.cpp keeps: an architecture without has none, whatever was asked
        yield MemoryItem(TARGET, "snapshots", memory.snapshots * state)
    if memory.snapshots < longest:
        yield MemoryItem("CPU" if arm.rollback == "checkpoint-host" else TARGET, "checkpoint", state)


def arm_items(arm: Arm, strategy: Strategy, model: LlamaModel, context: LlamaTarget) -> list[Item]:
    """All that serves an arm: the target's weights and its context's buffers, the strategy's items.

    A context's recurrent buffer holds its snapshots too; here they stand apart. So do the MTP layer's weights, which
    only an arm that drafts with them is charged with, though a worker loads the model once for all. A checkpoint is
    counted where the arm's longest draft needs one.
    """
    weights, layer = _split_weights(model)
    states, kept = _split_states(context)
    target = [*weights, *(i for i in context.buffers if i.kind != "recurrent"), *states]
    own = kept + (layer if "mtp_layer" in strategy.needs else []) + _own(strategy)
    if context.memory.snapshots < arm.longest_draft:
        host = arm.rollback == "checkpoint-host"
        own += [MemoryItem("CPU" if host else i.device, "checkpoint", i.bytes) for i in states]
    return [
        *(Item(TARGET, i.device, i.kind, i.bytes) for i in target),
        *(Item(arm.planned.label, i.device, i.kind, i.bytes) for i in own),
    ]


def process_items(model: LlamaModel, context: LlamaTarget | None, strategies: list[Strategy]) -> list[MemoryItem]:
    """All that a process holds now: the model, the context of the moment, every open strategy."""
    items = [*model.memory(), *(i for s in strategies for i in _own(s))]
    if context is not None:
        states, _ = _split_states(context)
        checkpoints = (
            states if on_device else [MemoryItem("CPU", "checkpoint", n)] for on_device, n in context.memory.saved()
        )
        items += [*context.buffers, *(i for saved in checkpoints for i in saved)]
    return items


def _own(strategy: Strategy) -> list[MemoryItem]:
    """A strategy's items, without what lies within the target's own weights."""
    return [i for i in strategy.memory() if (i.device, i.kind) != (TARGET, "weights")]


def _split_weights(model: LlamaModel) -> tuple[list[MemoryItem], list[MemoryItem]]:
    """(the trunk's weights, the MTP layer's), by device; the layer's are taken off the largest buffer of its place."""
    trunk, layer = list(model.memory()), []
    for ram, size in _mtp_bytes(model).items():
        there = [i for i in trunk if in_ram(i.device) == ram]
        if there:
            whole = max(there, key=lambda i: i.bytes)
            taken = min(size, whole.bytes)
            trunk[trunk.index(whole)] = MemoryItem(whole.device, whole.kind, whole.bytes - taken)
            layer.append(MemoryItem(whole.device, MTP_WEIGHTS, taken))
    return trunk, layer


def _mtp_bytes(model: LlamaModel) -> dict[bool, int]:
    """Bytes of the MTP layers' weights in RAM (True) and on GPUs (False), where they are loaded."""
    sizes: dict[bool, int] = {}
    if not model.mtp or not model.header.nextn_layers:
        return sizes
    header = whole_header(model.path)
    layers = tuple(f"blk.{header.trunk_layers + i}." for i in range(header.nextn_layers))
    for tensor, ram in placed(header, model.options, runs_on_gpu(model.options), mtp=True):
        if tensor.name.startswith(layers):
            sizes[ram] = sizes.get(ram, 0) + tensor.bytes
    return sizes


def _split_states(context: LlamaTarget) -> tuple[list[MemoryItem], list[MemoryItem]]:
    """(the running recurrent states, the snapshots), of buffers that hold 1 + snapshots of the same size."""
    n = context.memory.snapshots
    both = [i for i in context.buffers if i.kind == "recurrent"]
    states = [MemoryItem(i.device, i.kind, i.bytes // (1 + n)) for i in both]
    pairs = zip(both, states, strict=True)
    return states, [MemoryItem(i.device, "snapshots", i.bytes - s.bytes) for i, s in pairs if n]
