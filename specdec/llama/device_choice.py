"""The likeliest token, found by llama.cpp on the device: the logits (1 MB a row at 248 k tokens) never reach Python."""

from __future__ import annotations

from typing import Any

from specdec.errors import SpecdecError


class DeviceChoice:
    """A greedy sampler in a context's own graph, for sequence 0. Decodes then leave no logits to read."""

    def __init__(self, lib: Any, context: Any) -> None:
        self._lib, self._context = lib, context
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_greedy())
        if not lib.llama_set_sampler(context, 0, self._chain):
            self.close()
            raise SpecdecError("this llama.cpp build cannot choose tokens on the device.")

    def token(self) -> int:
        """The likeliest token after the last one of the last decode, which asked for outputs; waits for it."""
        return int(self._lib.llama_get_sampled_token_ith(self._context, -1))

    def close(self) -> None:
        """Free the sampler; the context must be freed before."""
        self._lib.llama_sampler_free(self._chain)
