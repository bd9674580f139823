"""What llama-server answered: checked, counted and put in specdec's words."""

from __future__ import annotations

from specdec.errors import BrokenGeneration
from specdec.server.client import Completion, Counters
from specdec.types import Limits, ServedGeneration

_STOPS = {"eos": "end-of-text", "word": "stop-string", "limit": "length"}


def served(answer: Completion, passes: int | None, n_drafting: int | None, end_to_end_s: float) -> ServedGeneration:
    """llama-server's answer in specdec's words."""
    t = answer.timings
    known = len(answer.tokens) - 1 - t.draft_n_accepted
    return ServedGeneration(
        n_prompt=t.prompt_n + t.cache_n,
        n_reused=t.cache_n,
        token_ids=answer.tokens,
        text=answer.content,
        stop=_STOPS[answer.stop_type],
        prefill_s=t.prompt_ms / 1000,
        ttft_s=t.prompt_ms / 1000,
        generation_s=t.predicted_ms / 1000,
        end_to_end_s=end_to_end_s,
        drafted=t.draft_n,
        accepted=t.draft_n_accepted,
        target_passes=passes,
        n_drafting=n_drafting,
        cut=None if passes is None else passes - known,
    )


def count_passes(
    answer: Completion, before: Counters | None, after: Counters | None, batches: int, longest_draft: int
) -> int | None:
    """Target passes of a generation after the prompt's ``batches``; None where they cannot be told.

    A pass emits its accepted tokens and one more, so they are tokens - 1 - accepted, and as many more as the stop cut
    off. At the length limit nothing is cut: llama-server drafts no further than that. Elsewhere the count of decodes
    tells, if it fits.
    """
    least = len(answer.tokens) - 1 - answer.timings.draft_n_accepted
    if answer.stop_type == "limit" or not answer.timings.draft_n:
        return least
    if before is None or after is None:
        return None
    passes = round(after.n_decode_total - before.n_decode_total) - batches
    return passes if 0 <= passes - least <= longest_draft else None


def count_drafting(before: Counters | None, after: Counters | None) -> int | None:
    """Target passes of a generation that verified a draft; None where they cannot be told."""
    if before is None or after is None:
        return None
    return round(after.spec_decode_num_drafts_total - before.spec_decode_num_drafts_total)


def check_answer(answer: Completion, n_prompt: int, limits: Limits, end_of_text: frozenset[int]) -> None:
    """Raise ``BrokenGeneration`` where what llama-server tells contradicts itself or what was asked."""
    t, n = answer.timings, len(answer.tokens)
    at_end = bool(answer.tokens) and answer.tokens[-1] in end_of_text
    faults = {
        f"it stopped for {answer.stop_type!r}": answer.stop_type not in _STOPS,
        "its context was full": answer.truncated,
        f"{n} tokens came, it counts {t.predicted_n}": not n == t.predicted_n == answer.tokens_predicted,
        f"{n} tokens came, {limits.n_predict} were asked for": n > limits.n_predict or n < 1,
        f"it stopped for length at {n} of {limits.n_predict} tokens": answer.stop_type == "limit"
        and n != limits.n_predict,
        "it stopped at an end of text that is none": answer.stop_type == "eos" and not at_end,
        "it went past an end of text that was to be ignored": limits.ignore_eos and answer.stop_type == "eos",
        f"the prompt has {n_prompt} tokens, it counts {t.prompt_n} + {t.cache_n}": t.prompt_n + t.cache_n != n_prompt,
        f"it accepted {t.draft_n_accepted} of {t.draft_n} draft tokens": t.draft_n_accepted > t.draft_n,
        "its clock stood still": n > 1 and t.predicted_ms <= 0.0,
    }
    wrong = [what for what, is_so in faults.items() if is_so]
    if wrong:
        raise BrokenGeneration(f"llama-server's answer contradicts itself: {'; '.join(wrong)}.")
