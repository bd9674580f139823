"""Whether the weights that will lie in system RAM fit there: from the header alone, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from specdec.llama.gguf import Header, Tensor
from specdec.llama.model import EXPERTS, checked_pattern
from specdec.spec import ModelOptions

_INPUT = ("token_embd", "per_layer_token_embd", "position_embd", "token_types")
"""Tensors of the input layer (llama-arch.cpp, LLM_TENSOR_LAYER_INPUT)."""


def placed(header: Header, options: ModelOptions, gpu: bool, mtp: bool = False) -> Iterator[tuple[Tensor, bool]]:
    """Each tensor that is loaded, and whether llama.cpp keeps it in system RAM under these options.

    Its own rules (llama-model.cpp, load_tensors): token embeddings stay on the CPU; the last ``gpu_layers`` of layers +
    1 (the output) go to the GPU; overrides win. Without a GPU everything stays, except the MTP layer where it is not
    loaded. Token embeddings that are the output too (no ``output.weight``) are loaded a second time, for the GPU.
    """
    layers = int(header.get("block_count", 0))
    trunk = header.trunk_layers
    first = first_on_gpu(layers, options.gpu_layers) if gpu else layers + 1
    given = (o.rpartition("=") for o in options.override_tensor)
    moved = [(re.compile(checked_pattern(pattern)), name == "CPU") for pattern, _, name in given if pattern]
    if options.n_cpu_moe:
        named = "|".join(map(str, range(options.n_cpu_moe)))
        moved.append((re.compile(EXPERTS.format(layers=named)), True))
    tied = not any(t.name == "output.weight" for t in header.tensors)
    for tensor, layer in _by_layer(header):
        if trunk <= layer < layers and not mtp:
            continue
        yield tensor, not gpu or next((cpu for pattern, cpu in moved if pattern.search(tensor.name)), layer < first)
        if gpu and tied and tensor.name == "token_embd.weight" and first <= layers:
            yield tensor, False


@lru_cache(maxsize=32)
def _by_layer(header: Header) -> list[tuple[Tensor, int]]:
    """Each tensor's layer: -1 of the input, as many as the file has layers of the output."""
    layers = int(header.get("block_count", 0))
    found = []
    for tensor in header.tensors:
        block = re.match(r"blk\.(\d+)\.", tensor.name)
        found.append((tensor, int(block[1]) if block else -1 if tensor.name.startswith(_INPUT) else layers))
    return found


def first_on_gpu(layers: int, gpu_layers: int) -> int:
    """The first layer that goes to the GPU; ``layers``, the file's count, stands for the output."""
    return max(layers + 1 - (layers + 1 if gpu_layers < 0 else gpu_layers), 0)


def weights_in_ram(header: Header, options: ModelOptions, gpu: bool, mtp: bool = False) -> int:
    """Bytes of the weights that llama.cpp will keep in system RAM under these options."""
    return sum(tensor.bytes for tensor, in_ram in placed(header, options, gpu, mtp) if in_ram)


def ram_fit(weights_bytes: int, available_bytes: int, mmap: bool) -> tuple[bool, str]:
    """(whether they fit, one clause) for weights that will lie in system RAM, before they are loaded."""
    fits = weights_bytes <= available_bytes
    text = f"{weights_bytes / 1e9:.2f} GB of weights in RAM, {available_bytes / 1e9:.1f} GB available"
    if fits:
        return True, text
    return False, f"{text}: {'they will be read from disk again and again' if mmap else 'the system will swap'}"
