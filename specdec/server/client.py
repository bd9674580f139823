"""One llama-server's HTTP interface, as much of it as measuring needs: a completion, and the counters of /metrics.

Fields and meanings: llama.cpp, tools/server/server-schema.cpp, server-task.cpp and server-common.cpp.
"""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from specdec.errors import SpecdecError
from specdec.types import Limits, Sampling, TokenArray

TIMEOUT_S = 3600.0
_FIELDS = ["content", "tokens", "tokens_predicted", "truncated", "stop_type", "timings"]
_SEEDS = 2**31 - 1


class Timings(BaseModel):
    """llama-server's own clocks, milliseconds, and counters. ``predicted_ms`` runs from the first token to the last."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt_n: int = Field(ge=0)
    prompt_ms: float = Field(ge=0)
    predicted_n: int = Field(ge=0)
    predicted_ms: float = Field(ge=0)
    cache_n: int = Field(0, ge=0)
    draft_n: int = Field(0, ge=0)
    draft_n_accepted: int = Field(0, ge=0)


class Completion(BaseModel):
    """What /completion answers."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    content: str
    tokens: list[int]
    tokens_predicted: int
    stop_type: str
    timings: Timings
    truncated: bool = False


class Counters(BaseModel):
    """Since the server started: calls of llama_decode on the target, and verifications of a draft."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    n_decode_total: float
    spec_decode_num_drafts_total: float


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """``sampling`` in llama-server's words: only the filters that are on, in specdec's order, then the temperature.

    Greedy is a top-k of one: the same token as a temperature of 0, and the cheapest way there.
    """
    if sampling.greedy:
        return {"samplers": ["top_k"], "top_k": 1, "temperature": 0.0}
    filters = {
        "top_k": sampling.top_k if sampling.top_k > 0 else None,
        "top_p": sampling.top_p if sampling.top_p < 1.0 else None,
        "min_p": sampling.min_p if sampling.min_p > 0.0 else None,
    }
    on = {name: value for name, value in filters.items() if value is not None}
    fixed = {"temperature": sampling.temperature, "seed": sampling.seed % _SEEDS}
    return {"samplers": [*on, "temperature"], **on, **fixed}


class Client:
    """Talks to one server; a connection for each request, for the server hangs up on idle ones.

    Args:
        port: on 127.0.0.1.
        timeout_s: the longest that one answer may take.
    """

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self._port, self._timeout_s = port, timeout_s

    def complete(self, ids: TokenArray, limits: Limits, sampling: Sampling, cache: bool) -> Completion:
        """One answer to a prompt of token ids. ``cache``: keep what the slot still holds of this prompt.

        Raises:
            OSError, http.client.HTTPException: no answer came (the server may have died).
            SpecdecError: it refused, or answered what cannot be read.
        """
        body = {
            "prompt": ids.tolist(),
            "n_predict": limits.n_predict,
            "ignore_eos": limits.ignore_eos,
            "stop": list(limits.stop),
            "cache_prompt": cache,
            "return_tokens": True,
            "response_fields": _FIELDS,
            **sampling_fields(sampling),
        }
        raw = self._request("POST", "/completion", orjson.dumps(body))
        try:
            return Completion.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "answer"
            raise SpecdecError(
                f"llama-server's answer cannot be read: {where}: {first['msg']} ({raw[:80].decode('utf-8', 'replace')!r}).",
                "Is this version of llama-server newer or older than specdec knows?",
            ) from error

    def counters(self) -> Counters | None:
        """The counters of /metrics; None where this build does not give them."""
        try:
            text = self._request("GET", "/metrics").decode()
        except SpecdecError:
            return None  # started without --metrics: an old build
        pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        try:
            return Counters.model_validate({name.rpartition(":")[2]: value for name, _, value in pairs})
        except ValidationError:
            return None  # other names in this build

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout_s)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            raw = response.read()
        if response.status != 200:
            raise SpecdecError(f"llama-server refused {path} with {response.status}: {_reason(raw)}")
        return raw


def _reason(raw: bytes) -> str:
    """The message in an error's body; the body's beginning where it has none."""
    try:
        return str(orjson.loads(raw)["error"]["message"])[:240]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return raw[:240].decode("utf-8", "replace") or "no reason given"
