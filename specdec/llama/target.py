"""The target over llama.cpp: one context, one sequence, a batch made once."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from specdec.errors import OutOfMemory, SpecdecError, tells_of_memory
from specdec.llama.accounting import buffers
from specdec.llama.batch import Batch
from specdec.llama.device_choice import DeviceChoice
from specdec.llama.experts import ExpertCounter
from specdec.llama.library import address_function, log, nextn
from specdec.llama.memory import LlamaMemory
from specdec.llama.model import LlamaModel
from specdec.spec import ModelOptions
from specdec.target import Outputs
from specdec.types import FloatArray, TokenArray


class LlamaTarget:
    """A context of a model.

    Args:
        model: stays the caller's; must outlive this.
        n_ctx: context length, tokens.
        snapshots: recurrent states to keep for rollback (``n_rs_seq``), 0 for none.
        longest_draft: the most draft tokens of a pass. Bounds the rows of logits that llama.cpp makes room for: at a
            vocabulary of 248 k, 512 rows would cost 500 MiB.
        hidden: whether decodes keep the hidden rows of all their tokens.
        likeliest: the likeliest token after the last one of each decode is found on the device: ``decode`` then gives
            no rows, and ``likeliest`` the token.
        count_experts: whether to count distinct experts (slower: llama/experts.py), for ``take_experts``.
    """

    def __init__(
        self,
        model: LlamaModel,
        n_ctx: int,
        snapshots: int = 0,
        longest_draft: int = 0,
        hidden: bool = False,
        likeliest: bool = False,
        count_experts: bool = False,
    ) -> None:
        if not model.header.has_trunk:
            raise SpecdecError(
                f"{model.path.name} holds an MTP layer alone, not a whole model.",
                "Give the model itself, and this file as --mtp-model.",
            )
        L, options = model._lib, model.options
        self._lib, self.model = L, model
        self.threads = model.threads
        self.n_vocab, self.width = model.n_vocab, model.width
        self.end_of_text, self.piece = model.end_of_text, model.piece
        params = L.llama_context_default_params()
        params.n_ctx = n_ctx
        # llama.cpp asserts n_ubatch > n_rs_seq + 1.
        params.n_batch = max(batch_size(options, n_ctx), snapshots + 2)
        params.n_ubatch = max(min(options.ubatch_size, params.n_batch), snapshots + 2)
        params.n_rs_seq = snapshots
        params.n_outputs_max = min(params.n_batch, longest_draft + 1)
        params.n_threads = self.threads
        params.n_threads_batch = options.threads_batch or self.threads
        params.flash_attn_type, params.type_k, params.type_v = model.attention()
        params.op_offload = options.op_offload
        params.no_perf = True
        self._experts = ExpertCounter() if count_experts else None  # llama.cpp keeps its callback only
        if self._experts is not None:
            params.cb_eval = self._experts.callback
        log.clear()
        self._context = L.llama_init_from_model(model.handle, params)
        if not self._context:
            raise context_error(f"a context of {n_ctx} tokens")
        self.log_lines = log.text()
        self.buffers = buffers(self.log_lines)
        self.hidden = hidden
        if hidden:
            self._nextn = nextn()
            self._nextn.llama_set_embeddings_nextn(self._context, True, False)
        self.n_ctx = int(L.llama_n_ctx(self._context))
        self.n_batch = int(params.n_batch)
        self.memory = LlamaMemory(L, self._context, model.recurrent)
        self._logits_address = address_function("llama_get_logits")
        self._seen: tuple[int | None, FloatArray] = (None, np.empty((0, self.n_vocab), np.float32))
        self._batch = Batch(L, self.n_batch)
        self._no_logits: FloatArray = np.empty((0, self.n_vocab), np.float32)
        self._choice = DeviceChoice(L, self._context) if likeliest else None

    def close(self) -> None:
        """Free the context and the batch."""
        if self._context:
            self._batch.close()
            self._lib.llama_free(self._context)
            if self._choice is not None:
                self._choice.close()
            self._context = None

    def decode(self, ids: TokenArray, start: int, outputs: Outputs) -> FloatArray:
        n = self._n_decoded = len(ids)
        self._batch.fill(ids, start, outputs)
        status = self._lib.llama_decode(self._context, self._batch.handle)
        if status != 0:
            raise _decode_error(f"llama_decode failed with {status} on {n} tokens at position {start}.")
        if outputs == "none" or self._choice is not None:
            self._lib.llama_synchronize(self._context)  # else its time would be booked by whoever waits next
            return self._no_logits
        rows = n if outputs == "all" else 1
        address = self._logits_address(self._context)  # waits for the result
        if address != self._seen[0] or rows > len(self._seen[1]):
            self._seen = (address, _floats(address, rows, self.n_vocab))
        return self._seen[1][:rows]

    def likeliest(self) -> int:
        """The likeliest token after the last one of the last decode, where it is found on the device."""
        assert self._choice is not None
        return self._choice.token()

    def hidden_rows(self) -> FloatArray:
        if not self.hidden:
            raise SpecdecError("this target was made without hidden rows.", "Declare needs = {'hidden_states'}.")
        address = ctypes.cast(self._nextn.llama_get_embeddings_nextn(self._context), ctypes.c_void_p).value
        return _floats(address, self._n_decoded, self.width)

    def take_experts(self) -> list[int] | None:
        return None if self._experts is None else self._experts.take()

    def warm_up(self) -> None:
        """One small decode, so that the first measured pass does not pay for page faults and kernel loading."""
        self.decode(np.zeros(2, np.int32), 0, "last")
        self.memory.clear()
        self.take_experts()


def batch_size(options: ModelOptions, n_ctx: int) -> int:
    """Most tokens of one decode in a context of ``n_ctx`` tokens."""
    return min(options.batch_size, max(n_ctx, 32))


def _floats(address: int | None, rows: int, columns: int) -> FloatArray:
    """llama.cpp's own memory as an array; nothing is copied."""
    if not address:
        raise SpecdecError("llama.cpp has no output for the last decode (this architecture may not give hidden rows).")
    buffer: Any = (ctypes.c_float * (rows * columns)).from_address(address)
    return np.frombuffer(buffer, np.float32).reshape(rows, columns)


def context_error(what: str) -> SpecdecError:
    """Why llama.cpp did not make ``what``, from its log."""
    errors = log.text("error")
    text = " ".join(errors)
    if "alloc" in text or "memory" in text:
        return OutOfMemory(
            f"out of memory: {what} cannot be made ({errors[0][:160] if errors else ''}).",
            "Use a smaller --ctx-size, --cache-type-k q8_0 --cache-type-v q8_0, or fewer --gpu-layers.",
        )
    return SpecdecError(f"llama.cpp cannot make {what}: {errors[0][:200] if errors else 'no reason given'}.")


def _decode_error(what: str) -> SpecdecError:
    errors = log.text("error")
    kind = OutOfMemory if tells_of_memory(" ".join(errors[-5:])) else SpecdecError
    return kind(what, f"llama.cpp says: {errors[-1][:200]}" if errors else "")
