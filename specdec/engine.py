"""specdec's own engine: one loaded model, one context at a time, the strategies of a run, answers to prompts."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from specdec.arms import Arm, ArmKey, Attempt, do
from specdec.conversation import fit_context, history, rounded, seeded
from specdec.decode import Decoder
from specdec.errors import SpecdecError
from specdec.forced.rates import SyntheticAcceptance
from specdec.forced.target import ForcedTarget
from specdec.forced.teacher import teacher_of
from specdec.llama.devices import describe, free_bytes, in_vain
from specdec.llama.fit import ram_fit, weights_in_ram
from specdec.llama.gguf import whole_header
from specdec.llama.library import gpu_names
from specdec.llama.model import LlamaModel, runs_on_gpu
from specdec.llama.target import LlamaTarget, batch_size
from specdec.models import model_path
from specdec.monitor.system import ram_available
from specdec.registry import Planned
from specdec.rollback import SNAPSHOT_RESERVE, Mode, snapshots_for, snapshots_short_of
from specdec.spec import RunSpec
from specdec.strategy import Services, Strategy
from specdec.target import Target
from specdec.types import Generation, Limits, MemoryItem, Message, Prompt, Step, TokenArray
from specdec.vram.held import arm_items, beyond_plain, process_items
from specdec.vram.items import Item


class Engine:
    """Loads the target, checks every arm against it before anything runs, and answers prompts.

    Args:
        spec: the run.
        planned: its strategies.
        announce: takes one line for each thing worth telling (loads).
        watch: may stand something between the loop and the target (a recorder).
    """

    def __init__(
        self,
        spec: RunSpec,
        planned: list[Planned],
        announce: Callable[[str], None],
        watch: Callable[[LlamaTarget], Target] = lambda target: target,
    ) -> None:
        spec, self._teacher = teacher_of(spec)
        self._spec, self._announce, self._watch = spec, announce, watch
        path = model_path(spec.target)
        header = whole_header(path)
        self._single = self._teacher.single if self._teacher else None
        probes = [plan.build(self._single) for plan in planned]
        for probe in probes:
            probe.check(header)
        mtp = any("mtp_layer" in p.needs for p in probes)
        in_ram = weights_in_ram(header, spec.model, runs_on_gpu(spec.model), mtp)
        fits, clause = ram_fit(in_ram, ram_available(), mmap=spec.model.load_mode != "none")
        announce(f"Loading {path.name} ({header.file_bytes / 1e9:.2f} GB; {clause})")
        if not fits:
            warnings.warn(f"{path.name} does not fit: {clause}", stacklevel=2)
        self.model = LlamaModel(path, spec.model, mtp=mtp)
        announce(f"Loaded in {self.model.load_s:.1f} s: {self.model.description}, vocabulary {self.model.n_vocab:,}")
        if not spec.card and (line := in_vain(spec.model)):  # a planned card may be without the GPU
            announce(f"warning: {line}")
        if spec.count_experts:
            if not int(header.get("expert_count", 0)):
                self.model.close()
                raise SpecdecError("--count-experts: this model has no experts to count.", "Leave --count-experts out.")
            announce("warning: counting experts slows every target pass: do not compare these times with other runs'")
        if self._teacher is not None:
            self._teacher.teach(self.model)
        self.sampling = spec.resolve_sampling(self.model.recommended_sampling)
        self.arms = self._make_arms(planned, probes)
        self._strategies: dict[str, Strategy] = {}
        self._allocated: dict[ArmKey, list[Item]] = {}
        self._target: LlamaTarget | None = None
        self._shape = (0, False)
        self._n_ctx = 0

    def close(self) -> None:
        """Free strategies, context and weights."""
        for strategy in self._strategies.values():
            strategy.close()
        self._strategies.clear()
        self._close_context()
        self.model.close()

    def _make_arms(self, planned: list[Planned], probes: list[Strategy]) -> list[Arm]:
        arms = []
        for plan, strategy in zip(planned, probes, strict=True):
            longest, hidden = strategy.longest_draft, "hidden_states" in strategy.needs
            modes: tuple[Mode, ...] = self._spec.rollback if longest else ("auto",)
            for mode in modes:
                count = snapshots_for(mode, longest, self.model.recurrent, self._spec.snapshots)
                arms.append(Arm(plan, mode, longest, count, hidden))
        return arms

    # ---- prompts

    def tokens(self, prompt: Prompt, history: tuple[Message, ...]) -> TokenArray:
        """The prompt's token ids; for a conversation, those of ``history``."""
        if prompt.kind == "completion":
            return self.model.tokenize(prompt.text)
        return self.model.chat(list(history), self._spec.thinking)

    def fit(self, prompts: list[Prompt], attempt: Attempt = do) -> dict[str, int]:
        """Choose or check the context length, open every strategy, make each kind of context once.

        Args:
            attempt: is handed an arm and each thing that is opened for it; does it, or notes that it failed, or leaves
                it undone (then it is done when the arm is first used).

        Returns:
            The prompts' lengths in tokens, all user turns together.
        """
        trained = int(self.model.header.get("context_length", 0))
        tokenize = self._teacher.whole if self._teacher else self.tokens
        self._n_ctx, lengths = fit_context(self._spec, prompts, tokenize, trained)
        self._open_all(attempt)
        return lengths

    def ready(self, arm: Arm) -> None:
        """Make the arm's context and open its strategy, unless they are there: whatever cannot work fails here."""
        self._context(arm)
        self._strategy(arm)

    def keep_logs(self, folder: Path) -> None:
        """Nothing to keep: llama.cpp's log is the process's own."""

    @property
    def description(self) -> str:
        """The target in llama.cpp's words, e.g. ``qwen2 1.5B Q4_K - Medium``."""
        return self.model.description

    @property
    def card(self) -> str:
        """The GPUs that this build and these options can use, or CPU."""
        options = self._spec.model
        return " + ".join(gpu_names()) if runs_on_gpu(options) else "CPU"

    @property
    def pids(self) -> tuple[int, ...]:
        """None: llama.cpp runs in this process."""
        return ()

    @property
    def n_batch(self) -> int:
        """Most tokens of one decode, before snapshots ask for more."""
        return batch_size(self._spec.model, self._n_ctx)

    @property
    def vram_asked(self) -> int:
        """Bytes of the target's weights on GPUs."""
        gpus = {d.name for d in describe() if d.is_gpu}
        return sum(i.bytes for i in self.model.memory() if i.device in gpus)

    def allocated(self, arm: Arm) -> list[Item] | None:
        """All that serves this arm, as it was allocated when ``fit`` opened it; None where that failed or was left."""
        return self._allocated.get(arm.key)

    def held(self) -> list[MemoryItem]:
        """All that this process holds now, for whichever arm."""
        return process_items(self.model, self._target, list(self._strategies.values()))

    def settings(self) -> dict[str, object]:
        """What the context was resolved to."""
        return {"n_ctx": self._n_ctx, "threads": self.model.threads, "recurrent": self.model.recurrent}

    # ---- generations

    def answers(
        self, arm: Arm, prompt: Prompt, limits: Limits | None = None, told: Callable[[Step], object] = lambda step: None
    ) -> Iterator[tuple[int, Generation]]:
        """(turn, generation) for each turn of the prompt; ``told`` is handed each step (``Decoder.generate``).

        The memory starts empty; within a conversation it is kept, as users have it. The strategy starts fresh unless
        the run carries state.
        """
        strategy = self._strategy(arm)
        if not self._spec.carry_state:
            strategy.reset()
        limits = limits or self._spec.limits
        answers: list[Message] = []
        for turn in range(prompt.turns):
            ids = self._ask(prompt, turn, answers)
            grows = turn and not self._spec.model.ctx_size and len(ids) + limits.n_predict > self._n_ctx
            if grows:
                self._grow(len(ids) + limits.n_predict)
                strategy = self._strategy(arm)
            if grows or not turn:
                decoder = Decoder(self._spoken(self._context(arm), prompt), strategy, arm.rollback)
            bounds = self._teacher.limits(limits) if self._teacher else limits
            generation = decoder.generate(ids, bounds, seeded(self.sampling, prompt, turn), told)
            generation = self._teacher.checked(generation) if self._teacher else generation
            longest = max(generation.steps.drafted, default=0)
            own = beyond_plain(arm, strategy, self._context(arm).memory, longest)
            yield turn, dataclasses.replace(generation, memory=tuple(own))
            answers.append(Message("assistant", generation.text))

    def _ask(self, prompt: Prompt, turn: int, answers: list[Message]) -> TokenArray:
        if self._teacher is not None:
            return self._teacher.begin(prompt, turn, self._n_ctx)
        return self.tokens(prompt, history(prompt, answers))

    def _spoken(self, target: LlamaTarget, prompt: Prompt) -> Target:
        """The target that speaks: the model itself, one that is told what to say, or that accepts at given rates."""
        if self._teacher is not None:
            return self._teacher.target(target)
        if not self._spec.synthetic:
            return self._watch(target)
        tokens = np.setdiff1d(np.arange(target.n_vocab, dtype=np.int32), list(target.end_of_text))
        seed = seeded(self.sampling, prompt, 0).seed
        return ForcedTarget(target, SyntheticAcceptance(self._spec.synthetic, target.n_ctx, tokens, seed))

    def discard(self, arm: Arm) -> None:
        """After a failure: the arm's strategy and the context are made anew before the next use."""
        strategy = self._strategies.pop(self._slot(arm), None)
        if strategy is not None:
            strategy.close()
        self._close_context()

    def _open_all(self, attempt: Attempt) -> None:
        """Open every strategy and make each kind of context once: what cannot work here shows before anything runs."""
        attempt(self.arms[0], lambda: self._context(self.arms[0]))  # `none`
        for arm in self.arms:
            attempt(arm, lambda arm=arm: self._strategy(arm))  # type: ignore[misc]
        if self._target is not None:  # what one recurrent state costs is read off plain decoding's context
            plain = self._target.buffers
            self.arms = [self._affordable(arm, plain) for arm in self.arms]
        for arm in sorted(self.arms, key=lambda a: (a.snapshots, a.hidden)):  # each kind of context once
            attempt(arm, lambda arm=arm: self._account(arm))  # type: ignore[misc]

    def _account(self, arm: Arm) -> None:
        context = self._context(arm)
        self._allocated[arm.key] = arm_items(arm, self._strategy(arm), self.model, context)

    def _affordable(self, arm: Arm, plain: list[MemoryItem]) -> Arm:
        """The arm, without snapshots where ``auto`` chose them and the memory that is left cannot hold them."""
        if arm.rollback != "auto" or self._spec.snapshots is not None:
            return arm
        free, states = free_bytes(), [i for i in plain if i.kind == "recurrent"]
        reserve = 0 if self._spec.vram_limit else SNAPSHOT_RESERVE  # a cap has taken its reserve off already
        short = snapshots_short_of(arm.snapshots, states, free, reserve)
        if not short:
            return arm
        self._announce(f"{arm.planned.label}: {arm.snapshots} snapshots do not fit ({short}): checkpoints instead")
        return dataclasses.replace(arm, snapshots=0)

    def _strategy(self, arm: Arm) -> Strategy:
        slot = self._slot(arm)
        if slot not in self._strategies:
            strategy = arm.planned.build(self._single)
            facts = (self.model.n_vocab, self._n_ctx, self.model.width, self.model.threads)
            try:
                strategy.open(Services(*facts, sampling=self.sampling, target_model=self.model))
            except BaseException:
                strategy.close()
                raise
            self._strategies[slot] = strategy
        return self._strategies[slot]

    def _context(self, arm: Arm) -> LlamaTarget:
        """The context that serves this arm; made anew where snapshots or hidden rows change."""
        shape = (arm.snapshots, arm.hidden)
        if self._target is None or self._shape != shape:
            self._close_context()
            longest = max(a.longest_draft for a in self.arms if (a.snapshots, a.hidden) == shape)
            count = self._spec.count_experts
            self._target = LlamaTarget(self.model, self._n_ctx, arm.snapshots, longest, arm.hidden, count_experts=count)
            self._shape = shape
            self._target.warm_up()
            if self._target.memory.snapshots != arm.snapshots and arm.rollback == "snapshots":
                raise SpecdecError(
                    f"{self.model.header.architecture}: llama.cpp keeps no snapshots for this architecture.",
                    "Use --rollback checkpoint.",
                )
        return self._target

    def _grow(self, tokens: int) -> None:
        """Make room for a conversation: an answer can have more tokens when its text comes back as history."""
        self._close_context()
        for slot in [s for s, strategy in self._strategies.items() if strategy.needs]:
            self._strategies.pop(slot).close()  # its own contexts are too short now
        self._n_ctx = rounded(tokens)
        self._announce(f"The context grows to {self._n_ctx:,} tokens")

    def _close_context(self) -> None:
        if self._target is not None:
            self._target.close()
            self._target = None

    def _slot(self, arm: Arm) -> str:
        """Arms of one strategy share an instance (a draft model is loaded once), unless they would share what it learnt."""
        return f"{arm.planned.label} {arm.rollback}" if self._spec.carry_state else arm.planned.label
