"""What tests of drafting strategies share: record every proposal, and compute drafts anew, without any reuse."""

from __future__ import annotations

import numpy as np

from specdec.decode import Decoder
from specdec.llama.model import LlamaModel
from specdec.llama.mtp import MtpContext
from specdec.llama.target import LlamaTarget
from specdec.registry import Registry
from specdec.rollback import Mode
from specdec.strategy import Services, Strategy
from specdec.types import Draft, Limits, Sampling, TokenArray

PROMPT = np.random.default_rng(4).integers(0, 500, 70).astype(np.int32)
LIMITS = Limits(60, ignore_eos=True)
GREEDY = Sampling()


def build(text: str) -> Strategy:
    return Registry().plan(text)[-1].build()


def recorded(strategy: Strategy, model: LlamaModel, mode: Mode, snapshots: int,
             prompts: list[TokenArray], sampling: Sampling = GREEDY) -> list[tuple[list[int], list[int]]]:  # fmt: skip
    """(context, draft) of every proposal, over generations one after the other."""
    target = LlamaTarget(model, 512, snapshots, 8, hidden="hidden_states" in strategy.needs)
    strategy.open(Services(target.n_vocab, target.n_ctx, target.width, 1, sampling, model))
    seen: list[tuple[list[int], list[int]]] = []
    propose = strategy.propose

    def watched(context: TokenArray, max_tokens: int) -> Draft:
        draft = propose(context, max_tokens)
        seen.append((context.tolist(), list(draft.token_ids)))
        return draft

    strategy.propose = watched  # type: ignore[method-assign]
    decoder = Decoder(target, strategy, mode)
    for prompt in prompts:
        decoder.clear()
        decoder.generate(prompt, LIMITS, sampling)
    strategy.close()
    target.close()
    return seen


def pieces(context: list[int], n_first: int) -> list[TokenArray]:
    """The prompt in one batch, then token by token: large batches take attention kernels that round differently."""
    ids = np.array(context, np.int32)
    return [part for part in (ids[:n_first], *np.split(ids[n_first:], len(ids[n_first:]))) if len(part)]


def naive_mtp(model: LlamaModel, context: list[int], n: int, n_prompt: int) -> list[int]:
    """All hidden rows anew, the whole context through a fresh MTP context, then the chain by hand."""
    target, mtp = LlamaTarget(model, 512, 0, 0, hidden=True), MtpContext(model, 512, 64, 1)
    at, last, result = 0, np.zeros((1, model.width), np.float32), None
    for ids in pieces(context, n_prompt):
        target.decode(ids, at, "none")
        hidden = target.hidden_rows().copy()
        result = mtp.decode(ids, at, np.concatenate([last, hidden[:-1]]), output=True)
        at, last = at + len(ids), hidden[-1:]
    tokens: list[int] = []
    while True:
        assert result is not None
        tokens.append(int(result[0].argmax()))
        if len(tokens) == n:
            break
        at = len(context) + len(tokens) - 1
        result = mtp.decode(np.array(tokens[-1:], np.int32), at, result[1][None].copy(), output=True)
    target.close()
    mtp.close()
    return tokens
