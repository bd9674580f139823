"""specdec over llama-server, the same strategy, files, prompts and lengths; interleaved prompt by prompt.

    python benchmarks/server.py --llama-server PATH --target MODEL.gguf [--draft DRAFT.gguf] \
        --strategies none,ngram-simple,ngram-mod,mtp --workloads code,chat [--limit 2] [--n-predict 96]

llama-server runs on loopback with one slot and without prompt cache; its own `timings` give its speed. Greedy on both
sides. Prints a ratio for each strategy: total tokens per second of specdec over llama-server's. Start-up is not timed.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from specdec.decode import Decoder
from specdec.demo import model_path
from specdec.engine import Arm, Engine
from specdec.llama.model import default_threads
from specdec.registry import Planned, Registry
from specdec.spec import RunSpec, make_spec
from specdec.types import Prompt, TokenArray
from specdec.workloads import load_prompts, select

FLAGS = {
    "none": [],
    "ngram-simple": ["--spec-type", "ngram-simple"],
    "ngram-mod": ["--spec-type", "ngram-mod"],
    "mtp": ["--spec-type", "draft-mtp"],
    "draft": ["--spec-type", "draft-simple"],
}


@dataclass(frozen=True)
class Speed:
    """Of one answer."""

    tokens: int
    seconds: float
    drafted: int
    accepted: int


def flags(planned: Planned, draft: str) -> list[str]:
    """llama-server's options for a strategy."""
    name, options = planned.found.cls.name, dict(planned.call.options)
    extra = ["--spec-draft-n-max", str(options.get("n_max", 3))] if name in ("mtp", "draft") else []
    return [*FLAGS[name], *extra, *(["-md", str(model_path(draft))] if name == "draft" else [])]


@contextmanager
def server(binary: str, spec: RunSpec, n_ctx: int, extra: list[str]) -> Iterator[str]:
    """A running llama-server; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = str(spec.model.threads or default_threads())
    command = [
        binary,
        "-m",
        str(model_path(spec.target)),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-c",
        str(n_ctx),
        "-t",
        threads,
    ]
    command += ["-tb", threads, "--parallel", "1", *extra]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield _ready(f"http://127.0.0.1:{port}", process)
        finally:
            process.terminate()


def _ready(address: str, process: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"llama-server ended with {process.returncode}: {process.args}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return address
        except OSError:
            time.sleep(0.2)
    raise SystemExit("llama-server did not become healthy")


def ask(address: str, ids: TokenArray, n_predict: int) -> Speed:
    """One greedy completion by llama-server."""
    body = {"prompt": ids.tolist(), "n_predict": n_predict, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
    request = urllib.request.Request(
        f"{address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        timings: dict[str, Any] = json.load(answer)["timings"]
    counts = timings.get("draft_n", 0), timings.get("draft_n_accepted", 0)
    return Speed(timings["predicted_n"], timings["predicted_ms"] / 1000, *counts)


def ours(engine: Engine, arm: Arm, spec: RunSpec, ids: TokenArray) -> Speed:
    """One greedy completion by specdec; strategies keep their state from prompt to prompt, as llama-server's do."""
    strategy = engine._strategy(arm)
    decoder = Decoder(engine._context(arm), strategy, arm.rollback)
    g = decoder.generate(ids, spec.limits, engine.sampling)
    return Speed(len(g.token_ids), g.generation_s, sum(g.steps.drafted), sum(g.steps.accepted))


def compare(binary: str, spec: RunSpec, engine: Engine, arm: Arm, prompts: list[Prompt]) -> None:
    """Print the ratio for one strategy."""
    n_ctx = int(engine.settings()["n_ctx"])  # type: ignore[call-overload]
    pairs = []
    with server(binary, spec, n_ctx, flags(arm.planned, spec.draft)) as address:
        for i, prompt in enumerate(prompts):
            ids = engine.tokens(prompt, prompt.messages[:1] if prompt.turns > 1 else prompt.messages)
            both = [lambda ids=ids: ours(engine, arm, spec, ids), lambda ids=ids: ask(address, ids, spec.n_predict)]
            if i == 0:
                [run() for run in both]  # warm-up
            results = [run() for run in (both if i % 2 else both[::-1])]
            pairs.append(results if i % 2 else results[::-1])
    total = [
        [sum(getattr(p[k], f) for p in pairs) for f in ("tokens", "seconds", "drafted", "accepted")] for k in (0, 1)
    ]
    speed = [tokens / seconds for tokens, seconds, _, _ in total]
    median = statistics.median((a.tokens / a.seconds) / (b.tokens / b.seconds) for a, b in pairs)
    shown = [f"{s:.2f} tok/s ({t[3]} of {t[2]} accepted)" for s, t in zip(speed, total, strict=True)]
    print(f"{arm.planned.label:18} specdec {shown[0]}, llama-server {shown[1]}: ratio {speed[0] / speed[1]:.3f},"
          f" median of {len(pairs)} prompts {median:.3f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft", default="")
    parser.add_argument("--strategies", default="ngram")
    parser.add_argument("--workloads", default="code,chat")
    parser.add_argument("--prompts", action="append", default=[])
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--n-predict", type=int, default=96)
    args = parser.parse_args()
    spec = make_spec(
        target=args.target, draft=args.draft, strategies=args.strategies, n_predict=args.n_predict, ignore_eos=True
    )
    planned = Registry().plan(spec.strategies, {"draft": {"model": spec.draft}})
    names = () if args.prompts else tuple(args.workloads.split(","))
    prompts = select(load_prompts(args.prompts), names, args.limit)
    engine = Engine(spec, planned, print)
    engine.fit(prompts)
    for arm in engine.arms:
        compare(args.llama_server, spec, engine, arm, prompts)
    engine.close()


if __name__ == "__main__":
    main()
