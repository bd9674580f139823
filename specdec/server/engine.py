"""The engine llama-server: answers the same prompts as specdec's own engine, with one server process a configuration."""

from __future__ import annotations

import http.client
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

from specdec.arms import Arm, Attempt, do
from specdec.conversation import fit_context, history, rounded, seeded
from specdec.errors import SpecdecError
from specdec.llama.gguf import whole_header
from specdec.llama.library import extra_buffers_are_safe
from specdec.llama.model import LlamaModel
from specdec.models import model_path
from specdec.registry import Planned
from specdec.server.answers import check_answer, count_drafting, count_passes, served
from specdec.server.client import Client
from specdec.server.options import (
    NoCounterpart,
    keeps_state,
    measuring_arguments,
    model_arguments,
    strategy_arguments,
)
from specdec.server.pool import Pool, Resident
from specdec.server.process import find_binary
from specdec.spec import RunSpec
from specdec.types import Limits, MemoryItem, Message, Prompt, ServedGeneration, TokenArray
from specdec.vram.items import Item

NAME = "llama-server"
_DEVICE = re.compile(r"using device \S+ \(([^)]*)\)")
_MARGIN = 2
"""llama-server ends a generation, and drafts less, when its context is nearly full (server-context.cpp)."""


class ServerEngine:
    """Tokenizes with the target's own vocabulary, starts servers, asks them. The interface is ``specdec.engine.Engine``'s.

    A strategy that llama-server does not have is announced and left out of ``arms``.

    Args:
        spec: the run.
        planned: its strategies.
        announce: takes one line for each thing worth telling.
        logs: folder for the servers' logs; without one they go with the engine.
    """

    def __init__(
        self,
        spec: RunSpec,
        planned: list[Planned],
        announce: Callable[[str], None],
        logs: Path | None = None,
    ) -> None:
        binary = find_binary(spec.llama_server)
        self._spec, self._announce, self.binary = spec, announce, binary
        path = model_path(spec.target)
        header = whole_header(path)
        self._own_logs = None if logs else tempfile.TemporaryDirectory(prefix="specdec-")
        self._pool = Pool(binary, logs or Path(str(self._own_logs and self._own_logs.name)), announce)
        self.model = LlamaModel(path, spec.model, vocab_only=True)
        self.sampling = spec.resolve_sampling(self.model.recommended_sampling)
        self._flags: dict[str, list[str]] = {}
        self.arms: list[Arm] = []
        for plan in planned:
            probe = plan.build()
            probe.check(header)
            if self._can(plan, probe.longest_draft):
                self.arms.append(Arm(plan, "auto", probe.longest_draft, 0, engine=NAME))
        if spec.rollback != ("auto",) or spec.snapshots is not None:
            announce("llama-server: undoes drafts in its own way; --rollback and --snapshots do not reach it")
        self._n_ctx = 0
        self._talks = False
        self._card = ""
        self._told: dict[str, list[MemoryItem]] = {}

    def close(self) -> None:
        """End the servers, free the vocabulary."""
        self._pool.close()
        self.model.close()
        if self._own_logs:
            self._own_logs.cleanup()

    def _can(self, plan: Planned, longest_draft: int) -> bool:
        """Whether llama-server has this strategy; says why not."""
        rates = self._spec.synthetic
        try:
            flags = strategy_arguments(plan, self._spec.model, self.model.threads)
            kind = flags[1] if flags else "none"
            if kind not in self.binary.spec_types:
                raise NoCounterpart(f"version {self.binary.version} has no --spec-type {kind}")
            if rates and flags:
                if len(rates) < longest_draft:
                    raise NoCounterpart(f"it wants {longest_draft} synthetic rates, one for each draft token")
                flags += ["--spec-synth-rates", ",".join(f"{r:g}" for r in rates[:longest_draft])]
            self.binary.require(flags)
        except NoCounterpart as why:
            self._announce(f"llama-server: {plan.label} is left out: {why}")
            return False
        except SpecdecError as error:
            self._announce(f"llama-server: {plan.label} is left out: {error.what}")
            return False
        self._flags[plan.label] = flags
        return True

    # ---- prompts

    def tokens(self, prompt: Prompt, history: tuple[Message, ...]) -> TokenArray:
        """The prompt's token ids; for a conversation, those of ``history``."""
        if prompt.kind == "completion":
            return self.model.tokenize(prompt.text)
        return self.model.chat(list(history), self._spec.thinking)

    def fit(self, prompts: list[Prompt], attempt: Attempt = do) -> dict[str, int]:
        """Choose or check the context length, start every server once, through ``attempt``; returns the prompts' lengths
        in tokens (all user turns together)."""
        trained = int(self.model.header.get("context_length", 0))
        self._n_ctx, lengths = fit_context(self._spec, prompts, self.tokens, trained)
        if not self._spec.model.ctx_size:
            self._n_ctx = rounded(self._n_ctx + _MARGIN + max(a.longest_draft for a in self.arms))
        self._talks = any(p.turns > 1 for p in prompts)
        for arm in self.arms:
            attempt(arm, partial(self._server, arm))
        return lengths

    @property
    def card(self) -> str:
        """The GPUs that the servers said they use, or CPU."""
        return self._card or "CPU"

    def settings(self) -> dict[str, object]:
        """What the context was resolved to, and which llama-server answers."""
        context = {"n_ctx": self._n_ctx, "threads": self.model.threads, "recurrent": self.model.recurrent}
        return {**context, "llama_server": self.binary.version}

    def keep_logs(self, folder: Path) -> None:
        """The servers' logs are to be kept in ``folder``."""
        self._pool.keep_logs(folder)

    @property
    def description(self) -> str:
        """The target, from its file's header: a model without weights cannot describe itself."""
        header = self.model.header
        return f"{header.architecture}, {header.file_bytes / 1e9:.2f} GB"

    @property
    def vram_asked(self) -> int:
        """0: llama-server does not say."""
        return 0

    def allocated(self, arm: Arm) -> list[Item] | None:
        """All that the arm's server has said it allocated; None where its log does not tell."""
        return [Item(NAME, i.device, i.kind, i.bytes) for i in self._told.get(arm.planned.label, [])] or None

    def held(self) -> list[MemoryItem] | None:
        """All that the servers that run have said they allocated; None where one does not tell."""
        told = [r.told for r in self._pool.residents.values()]
        return [i for items in told for i in items] if told and all(told) else None

    @property
    def pids(self) -> tuple[int, ...]:
        """The servers' processes."""
        return tuple(r.server.pid for r in self._pool.residents.values())

    def ready(self, arm: Arm) -> None:
        """Start the arm's server, one that remembers no prompt unless state is carried: whatever cannot work fails
        here."""
        self._forget(arm)
        self._server(arm)

    def arguments(self, arm: Arm) -> list[str]:
        """The command line that serves an arm, but for host and port."""
        arguments = model_arguments(self._spec.target, self._spec.model, self._n_ctx, self.model.threads)
        arguments += measuring_arguments(self.binary, self._talks)
        arguments += [] if extra_buffers_are_safe() else ["--no-repack"]
        return arguments + self._flags[arm.planned.label]

    # ---- generations

    def answers(self, arm: Arm, prompt: Prompt, limits: Limits | None = None) -> Iterator[tuple[int, ServedGeneration]]:
        """(turn, generation) for each turn of the prompt. Within a conversation the server keeps its prompt cache."""
        limits = limits or self._spec.limits
        self._forget(arm)
        answers: list[Message] = []
        for turn in range(prompt.turns):
            ids = self.tokens(prompt, history(prompt, answers))
            if turn and not self._spec.model.ctx_size and len(ids) + limits.n_predict + _MARGIN > self._n_ctx:
                self._grow(len(ids) + limits.n_predict + _MARGIN + arm.longest_draft)
            generation = self._ask(arm, prompt, turn, ids, limits)
            yield turn, generation
            answers.append(Message("assistant", generation.text))

    def discard(self, arm: Arm) -> None:
        """After a failure: the arm's server is started anew before the next use."""
        self._pool.drop(arm.planned.label)

    def _server(self, arm: Arm) -> Resident:
        known = arm.planned.label in self._pool.residents
        resident = self._pool.get(arm.planned.label, self.arguments(arm))
        self._told[arm.planned.label] = resident.told
        if not known and not resident.used:
            text = resident.server.log.read_text("utf-8", "replace")
            self._card = " + ".join(dict.fromkeys(_DEVICE.findall(text))) or self._card
            self._announce(f"llama-server for {arm.planned.label} is up after {resident.server.start_s:.1f} s")
        return resident

    def _forget(self, arm: Arm) -> None:
        """llama-server keeps some tables for good: a fresh one is a new process."""
        if self._spec.carry_state or not keeps_state(arm.planned):
            return
        resident = self._pool.residents.get(arm.planned.label)
        if resident is not None and resident.used:
            self._pool.drop(arm.planned.label)

    def _grow(self, tokens: int) -> None:
        self._pool.close()
        self._n_ctx = rounded(tokens)
        self._announce(f"llama-server: the context grows to {self._n_ctx:,} tokens")

    def _ask(self, arm: Arm, prompt: Prompt, turn: int, ids: TokenArray, limits: Limits) -> ServedGeneration:
        resident = self._server(arm)
        resident.used += 1
        server, client = resident.server, Client(resident.server.port)
        try:
            before = client.counters()
            began = perf_counter()
            answer = client.complete(ids, limits, seeded(self.sampling, prompt, turn), cache=turn > 0)
            spent = perf_counter() - began
            after = client.counters()
        except (OSError, http.client.HTTPException) as error:
            sleep(0.5)  # its end may be a moment behind its silence
            if not server.running:
                raise server.death() from error
            raise SpecdecError(
                f"llama-server gave no answer: {error or type(error).__name__}.", f"Its log: {server.log}"
            ) from error
        check_answer(answer, len(ids), limits, self.model.end_of_text)
        batches = -(-answer.timings.prompt_n // min(self._spec.model.batch_size, self._n_ctx))
        passes = count_passes(answer, before, after, batches, arm.longest_draft)
        return served(answer, passes, count_drafting(before, after), spent)
