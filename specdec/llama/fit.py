"""Whether the weights that will lie in system RAM fit there: from the header alone, before anything is loaded."""

from __future__ import annotations

import re

from specdec.llama.gguf import Header
from specdec.llama.model import EXPERTS, checked_pattern
from specdec.spec import ModelOptions


def weights_in_ram(header: Header, options: ModelOptions, gpu: bool, mtp: bool = False) -> int:
    """Bytes of the weights that llama.cpp will keep in system RAM under these options.

    Its own rules (llama-model.cpp): token embeddings stay on the CPU; the last ``gpu_layers`` of layers + 1 (the output)
    go to the GPU; overrides win. Without a GPU everything stays, except the MTP layer where it is not loaded.
    """
    layers = int(header.get("block_count", 0))
    trunk = layers - header.nextn_layers
    on_gpu = layers + 1 if options.gpu_layers < 0 else options.gpu_layers
    first = max(layers + 1 - on_gpu, 0) if gpu else layers + 1
    given = (o.rpartition("=") for o in options.override_tensor)
    moved = [(re.compile(checked_pattern(pattern)), name == "CPU") for pattern, _, name in given if pattern]
    if options.n_cpu_moe:
        named = "|".join(map(str, range(options.n_cpu_moe)))
        moved.append((re.compile(EXPERTS.format(layers=named)), True))
    total = 0
    for tensor in header.tensors:
        block = re.match(r"blk\.(\d+)\.", tensor.name)
        layer = int(block[1]) if block else -1 if tensor.name.startswith("token_embd") else layers
        if layer >= trunk and block and not mtp:
            continue
        in_ram = next((cpu for pattern, cpu in moved if pattern.search(tensor.name)), layer < first)
        total += tensor.bytes if in_ram or not gpu else 0
    return total


def ram_fit(weights_bytes: int, available_bytes: int, mmap: bool) -> tuple[bool, str]:
    """(whether they fit, one clause) for weights that will lie in system RAM, before they are loaded."""
    fits = weights_bytes <= available_bytes
    text = f"{weights_bytes / 1e9:.2f} GB of weights in RAM, {available_bytes / 1e9:.1f} GB available"
    if fits:
        return True, text
    return False, f"{text}: {'they will be read from disk again and again' if mmap else 'the system will swap'}"
