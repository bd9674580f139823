"""The MTP context: a second context over a model's MTP layers (its heads).

A head decodes token x at position p together with a hidden row of position p-1 (the target's trunk gives it; zeros
before the first token) and gives logits for position p+1 and a hidden row of its own. Reference behaviour: llama.cpp,
common/speculative.cpp, ``common_speculative_impl_draft_mtp``. A single head drafts on alone with its own row, one token
after the other. Of several *chained* heads, head i drafts token i: it reads all that head i-1 read and the token that
head i-1 drafted, with the row that head i-1 gave. The heads share the positions of one memory, each in a layer of its
own, so each must decode every token of the text itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specdec.errors import SpecdecError
from specdec.llama.accounting import buffers
from specdec.llama.batch import Batch
from specdec.llama.device_choice import DeviceChoice
from specdec.llama.gguf import Header
from specdec.llama.library import log, nextn
from specdec.llama.model import LlamaModel
from specdec.llama.target import context_error
from specdec.llama.vocab import match_vocabularies
from specdec.types import FloatArray, MemoryItem, TokenArray

_MTP_CONTEXT = 1


@dataclass(frozen=True, slots=True)
class _Graph:
    """What an architecture's MTP graph (``graph_mtp`` in src/models/<source>.cpp) does and wants.

    several: it takes ``nextn_layer_offset`` and allows more than one head; the others assert exactly one.
    picks: it picks the output rows before it hands out hidden rows. Then masked mode is a must (unmasked, llama.cpp
        reads beyond the rows and aborts); the others need unmasked mode (masked, a batch of several tokens with one
        output gives the FIRST token's row).
    wants: tensors of every head whose absence would abort; what llama.cpp itself refuses while loading is not here.
    """

    source: str
    several: bool = False
    picks: bool = False
    wants: tuple[str, ...] = ()


_GRAPHS = {
    # Run on tiny random models (specdec/testing/heads.py, nano.py): drafts equal those of a naive computation.
    "qwen35": _Graph("qwen35"),
    "qwen35moe": _Graph("qwen35moe"),
    "qwen3next": _Graph("qwen3next", picks=True),
    "glm4moe": _Graph("glm4-moe"),
    "step35": _Graph("step35", several=True, picks=True),
    "mimo2": _Graph("mimo2", several=True, picks=True, wants=("attn_qkv.weight", "ffn_gate.weight", "ffn_up.weight")),
    "hy_v3": _Graph("hy-v3", several=True),
    # By source: the same inputs (token and hidden row), all hidden rows of the model's width, exactly one head. Not run.
    "bailingmoe3": _Graph("bailingmoe3", wants=("nextn.shared_head_norm.weight",)),
    "cohere2moe": _Graph("cohere2moe"),
    "nemotron_h_moe": _Graph("nemotron-h-moe", wants=("nextn.shared_head_norm.weight",)),
}
"""The architectures that ``mtp`` serves. Left out, though llama.cpp has an MTP graph for them: deepseek4 (its hidden rows
are wider than the model) and deepseek2, deepseek32, glm-dsa (asserts on latent attention that a header does not show).
gemma4-assistant is a model of its own that shares the target's memory. Others only carry the tensors along."""


def check_header(header: Header) -> None:
    """Refuse, in one line, a file whose MTP layers llama.cpp would refuse by aborting."""
    layers, name = header.nextn_layers, header.architecture
    if layers == 0:
        raise SpecdecError(
            "mtp: this GGUF has no MTP layer (nextn_predict_layers is 0).",
            "Use a file that kept it, a file with the layer alone (--mtp-model), or another strategy.",
        )
    graph = _GRAPHS.get(name)
    if graph is None:
        raise SpecdecError(f"mtp: the architecture {name!r} is not supported.", f"Supported: {', '.join(_GRAPHS)}.")
    if layers != 1 and not graph.several:
        raise SpecdecError(f"mtp: this GGUF has {layers} MTP layers; llama.cpp runs exactly one of {name}.")
    if int(header.metadata.get("split.count", 0)) > 1:
        return  # the layers lie in a later part
    names = {t.name for t in header.tensors}
    for i in range(header.trunk_layers, header.trunk_layers + layers):
        missing = [t for t in ("nextn.eh_proj.weight", *graph.wants) if f"blk.{i}.{t}" not in names]
        if missing:
            raise SpecdecError(
                f"mtp: this GGUF declares {layers} MTP layer{'s' * (layers > 1)}, but has no tensor blk.{i}.{missing[0]}.",
                "If the layer lies in a file of its own, name it with --mtp-model; else convert the model again.",
            )


def check_separate(header: Header, target: Header) -> None:
    """Refuse, in one line, a file that is not the target's MTP layer alone."""
    name = header.path.name
    if header.nextn_layers == 0:
        raise SpecdecError(
            f"mtp: {name} has no MTP layer (nextn_predict_layers is 0).",
            "Make one from the original model with llama.cpp's convert_hf_to_gguf.py --mtp.",
        )
    if header.has_trunk:
        raise SpecdecError(
            f"mtp: {name} is a whole model ({header.file_bytes / 1e9:.2f} GB), which would be loaded beside the target.",
            "Leave --mtp-model out to use the target's own layer, or name a file with the MTP layer alone.",
        )
    check_header(header)
    for what, own, wanted in (
        ("the architecture", header.architecture, target.architecture),
        ("the width", header.get("embedding_length"), target.get("embedding_length")),
        ("the number of layers", header.trunk_layers, target.trunk_layers),
    ):
        if own != wanted:
            raise SpecdecError(
                f"mtp: {name} is of another model: {what} is {wanted} in the target, {own} there.",
                "Use the MTP layer of the target itself.",
            )
    found = match_vocabularies(target.path, header.path)
    sizes = [] if found.sizes[0] == found.sizes[1] else ["the target has {} tokens, it has {}".format(*found.sizes)]
    if found.reasons or sizes:
        raise SpecdecError(
            f"mtp: {name} is of another model: {'; '.join(found.reasons or sizes)}.",
            "Use the MTP layer of the target itself.",
        )


def chained_heads(header: Header) -> int:
    """How many heads draft one token each; 0 where a single head drafts all of them."""
    return header.nextn_layers if header.nextn_layers > 1 else 0


class MtpContext:
    """One sequence of the MTP layers. Positions are those of the target.

    Args:
        model: loaded with its MTP layers; must outlive this.
        n_ctx: context length, tokens.
        n_ubatch: tokens computed at once. Small: its compute buffer costs VRAM (74 MiB on 35B-A3B at 64, 500 at 512).
        threads: of generation and of the prompt.
        on_device: whether ``likeliest`` is asked for only, never the logits: it is then found on the device.
    """

    def __init__(self, model: LlamaModel, n_ctx: int, n_ubatch: int, threads: int, on_device: bool = False) -> None:
        L = self._lib = model._lib
        self._nextn = nextn()
        self.width, self.n_vocab = model.width, model.n_vocab
        self._chained, self._head = chained_heads(model.header) > 0, 0
        params = L.llama_context_default_params()
        params.ctx_type = _MTP_CONTEXT
        params.n_ctx, params.n_batch = n_ctx, min(model.options.batch_size, max(n_ctx, 32))
        params.n_ubatch = min(n_ubatch, params.n_batch)
        params.n_outputs_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type, params.type_k, params.type_v = model.attention()
        # A memory of only the attention window would lose, with one head's pass, cells that the next head still reads.
        params.swa_full = True
        params.no_perf = True
        log.clear()
        self._context = L.llama_init_from_model(model.handle, params)
        if not self._context:
            raise context_error(f"a context of {n_ctx} tokens for the MTP layer")
        self._buffers = buffers(log.text())
        self._nextn.llama_set_embeddings_nextn(self._context, True, _GRAPHS[model.header.architecture].picks)
        self._memory = L.llama_get_memory(self._context)
        self._rows = np.zeros((int(params.n_batch), self.width), np.float32)
        self._batch = Batch(L, len(self._rows), self._rows)
        self._choice = DeviceChoice(L, self._context) if on_device else None
        self._logits: FloatArray = np.empty(0, np.float32)

    def decode(
        self, ids: TokenArray, start: int, rows: FloatArray, output: bool, head: int = 0
    ) -> tuple[FloatArray, FloatArray] | None:
        """Decode ``ids`` int32 [n] at ``start`` with ``rows`` float32 [n, width], rows[i] of position start+i-1.

        With ``output``: (logits [n_vocab], hidden row [width]) of the last token, valid until the next decode; no
        logits where the choice is made on the device. Another head may decode the same positions again after
        ``keep(start)``: it writes to its own layer of the same cells.
        """
        while len(ids) > self._batch.size:
            n = self._batch.size
            self.decode(ids[:n], start, rows[:n], output=False, head=head)
            ids, start, rows = ids[n:], start + n, rows[n:]
        n = len(ids)
        self._rows[:n] = rows
        self._batch.fill(ids, start, "last" if output else "none")
        if self._chained and head != self._head:
            self._nextn.llama_set_nextn_layer_offset(self._context, head)
            self._head = head
        status = self._lib.llama_decode(self._context, self._batch.handle)
        if status != 0:
            raise SpecdecError(f"mtp: llama_decode failed with {status} on {n} tokens at position {start}.")
        if not output:
            return None
        if self._choice is None:
            logits = self._lib.llama_get_logits_ith(self._context, n - 1)
            self._logits = np.ctypeslib.as_array(logits, (self.n_vocab,))
        hidden = self._nextn.llama_get_embeddings_nextn_ith(self._context, n - 1)
        return self._logits, np.ctypeslib.as_array(hidden, (self.width,))

    def likeliest(self) -> int:
        """The likeliest token after the last decode, which asked for outputs."""
        return int(self._logits.argmax()) if self._choice is None else self._choice.token()

    def keep(self, length: int) -> None:
        """Forget positions ``length`` and later."""
        self._lib.llama_memory_seq_rm(self._memory, 0, length, -1)

    def clear(self) -> None:
        """Forget everything."""
        self._lib.llama_memory_clear(self._memory, True)

    def memory(self) -> list[MemoryItem]:
        """KV and compute buffers of this context."""
        return self._buffers

    def close(self) -> None:
        """Free the context; the weights stay the model's."""
        if self._context:
            self._batch.close()
            self._lib.llama_free(self._context)
            if self._choice is not None:
                self._choice.close()
            self._context = None
