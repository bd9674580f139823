"""The strategy: something that guesses the target's next tokens. One method must be written: ``propose``.

    class Repeat(Strategy):
        name = "repeat"

        def propose(self, context, max_tokens):
            return Draft([int(context[-1])] * min(4, max_tokens))

The loop (specdec/decode.py) times, clips and counts; a strategy never touches the target's memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from specdec.types import Draft, FloatArray, MemoryItem, Sampling, Step, Steps, TokenArray

if TYPE_CHECKING:
    from specdec.llama.gguf import Header
    from specdec.spec import ModelOptions


class StrategyOptions(BaseModel):
    """Base of a strategy's options: every field has a default and a description that names its unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Services:
    """Facts of the target that a strategy may rely on; handed over once, by ``open``.

    Args:
        n_vocab: tokens in the target's vocabulary.
        n_ctx: the target's context length in tokens.
        width: length of the target's hidden rows (0 where unknown).
        threads: threads of the target's decoding.
        sampling: how the run chooses the target's tokens.
        target_model: the loaded target (``LlamaModel``), for strategies that need ``target_model``.
    """

    n_vocab: int
    n_ctx: int
    width: int = 0
    threads: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    target_model: object = None


class Strategy(ABC):
    """Base class. A subclass gives ``name``, may give ``Options`` and ``needs``, and writes ``propose``.

    Order: ``check``, ``open``, then for each generation ``begin``, (``process``, ``propose``, ``accept``)*, ``end``;
    ``reset`` between prompts unless the run carries state; ``close`` at last.
    """

    name: ClassVar[str]
    Options: ClassVar[type[StrategyOptions]] = StrategyOptions
    combines: ClassVar[bool] = False
    """Whether it is made of strategies, given inside its brackets; then it writes ``combine``."""

    needs: frozenset[str] = frozenset()
    """``hidden_states``: ``process`` is called. ``target_model``: ``Services.target_model`` is set. ``mtp_layer``: the
    target is loaded with its MTP layer."""

    search: ClassVar[dict[str, str]] = {}
    """Values worth trying: option to a list or range as the strategy syntax writes it, e.g. ``{"n_max": "1..8:1"}``.
    ``specdec replay --search`` tries them for options that are not given."""

    tell_confidence: bool = False
    """Set by a recorder: drafts should carry ``Draft.confidence`` where the strategy has a p_min."""

    translate_s: float = 0.0
    """Seconds spent so far in ``propose`` on changing between vocabularies: booked as a phase of their own."""

    def __init__(self, options: StrategyOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()

    def combine(self, children: list[tuple[str, Strategy]]) -> None:
        """Take the nested strategies, each with its label; only where ``combines``."""
        raise TypeError(f"{self.name} takes no strategies")

    @property
    def longest_draft(self) -> int:
        """The most tokens that one draft may hold; the loop clips to it and the rollback is planned with it.

        Default: the option ``n_max`` where there is one, else 16.
        """
        return int(getattr(self.options, "n_max", 16))

    def check(self, target: Header) -> None:  # noqa: B027 - optional
        """Raise ``SpecdecError`` if this strategy cannot serve this target; before anything is loaded."""

    def open(self, services: Services) -> None:  # noqa: B027 - optional
        """Once, before the first generation: learn the facts of the target, allocate."""

    def begin(self, prompt_ids: TokenArray) -> None:  # noqa: B027 - optional
        """A new generation, before the prefill. ``prompt_ids`` int32 [n], the whole prompt, read-only."""

    def process(self, ids: TokenArray, start: int, hidden: FloatArray) -> None:  # noqa: B027 - optional
        """After each prefill chunk and each target pass, with ``needs = {"hidden_states"}`` only.

        ``hidden`` float32 [len(ids), width] is valid until the next decode; ``start`` is the position of ids[0].
        """

    @abstractmethod
    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        """Guess what follows ``context``.

        Args:
            context: int32 [n], read-only view of prompt and output so far; its last token is sampled, not yet decoded.
            max_tokens: the most that the loop will verify now (at least 1); longer drafts are clipped.
        """

    def accept(self, step: Step) -> None:  # noqa: B027 - optional
        """Once a step, also after an empty draft: what verification kept and what was emitted."""

    def end(self) -> None:  # noqa: B027 - optional
        """The generation is over."""

    def replay(self, text: TokenArray, n_prompt: int, n_predict: int, most: int) -> Steps | None:
        """All steps of a generation whose text is known, at once; None (the default): step by step.

        For strategies that can do it faster than by their own ``begin``, ``propose``, ``accept``, ``end``: the result
        and the state left behind must be the same (specdec/replay/loop.py is the rule; the conformance suite compares).

        Args:
            text: int32 [n], prompt and answer, read-only.
            n_prompt: tokens of the prompt; the answer's first token comes from the prefill.
            n_predict: the length limit; most: the longest draft that the loop verifies.

        Returns:
            int32 [2, steps]: drafted and accepted of each step.
        """
        return None

    def reset(self) -> None:  # noqa: B027 - optional
        """Forget everything learnt across generations."""

    def close(self) -> None:  # noqa: B027 - optional
        """Free what ``open`` took."""

    def expected_memory(self, target: Header, options: ModelOptions, n_ctx: int) -> list[MemoryItem]:
        """What ``memory`` will say once it is open, from headers alone: for ``specdec plan``. By default what it holds
        before.

        Args:
            target: the target's header; options: how it is loaded; n_ctx: its context length.

        Returns:
            items with the device ``GPU`` or ``CPU``; placed as if there were a GPU.
        """
        return self.memory()

    def memory(self) -> list[MemoryItem]:
        """What the strategy itself holds (tables, weights, caches), item by item."""
        return []
