"""What every engine does alike with a run's prompts: their history turn by turn, the context they need, their seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable

from specdec.errors import SpecdecError
from specdec.spec import RunSpec
from specdec.types import Message, Prompt, Sampling, TokenArray

Tokenize = Callable[[Prompt, tuple[Message, ...]], TokenArray]


def history(prompt: Prompt, answers: list[Message]) -> tuple[Message, ...]:
    """The conversation up to the next answer, with the answers so far in their places."""
    messages: list[Message] = []
    start = 0
    for answer, stop in zip([*answers, None], prompt.asks, strict=False):
        messages += prompt.messages[start:stop]
        start = stop
        if answer is not None:
            messages.append(answer)
    return tuple(messages)


def fit_context(spec: RunSpec, prompts: list[Prompt], tokenize: Tokenize, trained: int) -> tuple[int, dict[str, int]]:
    """(context length for these prompts, each prompt's length in tokens, all user turns together).

    ``trained`` is the context that the model was trained for, 0 where it does not say.
    """
    lengths, needs = {}, {}
    for prompt in prompts:
        stand_in = [Message("assistant", "")] * (prompt.turns - 1)  # some templates insist on alternating roles
        lengths[prompt.id] = len(tokenize(prompt, history(prompt, stand_in)))
        # Later turns of a conversation hold the earlier answers and their template's frame.
        needs[prompt.id] = lengths[prompt.id] + prompt.turns * (spec.n_predict + 16 * (prompt.turns > 1))
    worst = max(needs, key=needs.__getitem__)
    asked = spec.model.ctx_size
    if asked and needs[worst] > asked:
        raise SpecdecError(
            f"prompt {worst} has {lengths[worst]:,} tokens and needs {needs[worst]:,} with --n-predict"
            f" {spec.n_predict}: --ctx-size is {asked:,}.",
            f"Use --ctx-size {needs[worst]}, a smaller --n-predict, or other --workloads.",
        )
    n_ctx = asked or rounded(needs[worst])
    if line := too_long(n_ctx, trained):
        warnings.warn(line, stacklevel=3)
    return n_ctx, lengths


def too_long(n_ctx: int, trained: int) -> str:
    """A line where a context is longer than the model was trained for (0: not known); empty otherwise."""
    return f"the context of {n_ctx:,} tokens exceeds the model's {trained:,}" if 0 < trained < n_ctx else ""


def rounded(tokens: int) -> int:
    """A context length that holds ``tokens``: at least 512, a multiple of 256 (llama.cpp pads to that)."""
    return max(512, -(-tokens // 256) * 256)


def seeded(sampling: Sampling, prompt: Prompt, turn: int) -> Sampling:
    """Each prompt and turn has random numbers of its own, the same for every strategy."""
    name = hashlib.sha256(f"{sampling.seed}/{prompt.id}/{turn}".encode()).digest()
    return dataclasses.replace(sampling, seed=int.from_bytes(name[:8], "little"))
