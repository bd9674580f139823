"""specdec from Python: the same words and defaults as the command line, live runs, how classes reach workers."""

from __future__ import annotations

import json
import linecache
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused import refusal
from typer.testing import CliRunner

import specdec
from specdec import Strategy, runner
from specdec.api import options
from specdec.api.progress import InNotebook, observed
from specdec.api.source import self_contained
from specdec.api.strategies import named
from specdec.cli import app
from specdec.profile import measure
from specdec.profile.spec import ProfileSpec
from specdec.registry import Registry, load_class
from specdec.replay import job
from specdec.replay.run import ReplayOptions
from specdec.spec import ModelOptions, RunSpec, SamplingOptions

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference"
RUN = "20261122-085546-4561"
TRACE = REFERENCE / "traces" / "demo.npz"

CELLS = (
    "import numpy as np\nfrom specdec import Draft, Strategy, StrategyOptions\nfrom pydantic import Field\n",
    "KEEP = 4\nTABLE = np.arange(3)\n",
    "class Own(StrategyOptions):\n    n_max: int = Field(4, ge=1, description='longest draft, tokens')\n",
    "def cut(ids, n):\n    return ids[: min(n, KEEP)]\n\nfirst = cut\n",
    '''class AfterLast(Strategy):
    """Draft what followed the last token."""

    name = "after-last"
    Options = Own

    def propose(self, context, max_tokens):
        earlier = np.nonzero(context[:-1] == context[-1])[0]
        if not len(earlier):
            return Draft()
        return Draft(first(context[earlier[-1] + 1 :].tolist(), min(max_tokens, self.options.n_max)))
''',
    "class Table(AfterLast):\n    name = 'table'\n\n    def propose(self, context, max_tokens):\n"
    "        return Draft(TABLE)\n",
)


@pytest.fixture
def notebook() -> Iterator[dict[str, Any]]:
    """The names of a notebook whose cells have run; their source is where IPython keeps it."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    files = []
    for i, cell in enumerate(CELLS):
        files.append(f"<ipython-input-{i}>")
        linecache.cache[files[-1]] = (len(cell), None, cell.splitlines(keepends=True), files[-1])
        exec(compile(cell, files[-1], "exec"), scope)
    yield scope
    for file in files:
        linecache.cache.pop(file, None)


def test_import_is_light_and_needs_no_llama_cpp() -> None:
    code = (
        "import sys; sys.modules['llama_cpp'] = None; import specdec; assert 'numpy' not in sys.modules;"
        "assert 'pydantic' not in sys.modules; assert set(specdec.__all__) <= set(dir(specdec));"
        f"run = specdec.load_run({RUN!r}, {str(REFERENCE)!r}); print(len(run.table()), run.verdicts['all']['mtp'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["35", "slower"]


def test_everything_public_is_there() -> None:
    import specdec.profile
    import specdec.replay  # packages must not hide functions

    for name in specdec.__all__:
        assert getattr(specdec, name) is not None
        assert name == "__version__" or not hasattr(getattr(specdec, name), "__path__")
    with pytest.raises(AttributeError):
        specdec.nothing  # noqa: B018


class Seen(Exception):
    pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been run."""
    seen: list[Any] = []

    def take(spec: object, *_: object) -> None:
        seen.append(spec)
        raise Seen

    monkeypatch.setattr(runner, "compare", take)
    monkeypatch.setattr(measure, "take_profile", take)
    monkeypatch.setattr(job, "replay", take)
    return seen


@pytest.mark.parametrize(
    ("command", "call"),
    [
        ("compare", lambda: specdec.compare()),
        ("compare --quick", lambda: specdec.compare(quick=True)),
        ("compare --limit 0 -n 9 --quick", lambda: specdec.compare(limit=0, n_predict=9, quick=True)),
        (
            "compare -m x.gguf -s 'mtp(n_max=2),draft' -w code,chat --temp 0.8 --n-cpu-moe 31 --threads 4 --seed 3"
            " --rollback snapshots,checkpoint --synthetic 0.8,0.5 --stop , --draft d.gguf --cache-type-k q8_0"
            " --no-op-offload --no-mmap --with-llama-server --prompts own.jsonl --override-tensor a,b=CPU",
            lambda: specdec.compare(
                Path("x.gguf"), ["mtp(n_max=2)", "draft"], ["code", "chat"], temp=0.8, n_cpu_moe=31, threads=4, seed=3,
                rollback="snapshots,checkpoint", synthetic=[0.8, 0.5], stop=",", draft=Path("d.gguf"),
                cache_type_k="q8_0", op_offload=False, load_mode="none", with_llama_server=True, prompts="own.jsonl",
                override_tensor="a,b=CPU",
            ),
        ),
        ("compare", lambda: specdec.compare(engine=None)),
        ("profile", lambda: specdec.take_profile()),
        (
            "profile -m x.gguf --depths 64,128 --lengths 1,2 --threads 2,4 --temp 0.5 -ctk q8_0",
            lambda: specdec.take_profile(
                "x.gguf", depths=[64, 128], lengths=[1, 2], threads=[2, 4], temp=0.5, cache_type_k="q8_0"
            ),
        ),
        ("replay t.npz", lambda: specdec.replay_trace("t.npz")),
        (
            "replay t.npz -s 'mtp(n_max=1..8)' --trials 9 --costs c --jobs 2",
            lambda: specdec.replay_trace(Path("t.npz"), "mtp(n_max=1..8)", trials=9, costs="c", jobs=2),
        ),
    ],
)  # fmt: skip
def test_the_same_words_ask_for_the_same(asked: list[Any], command: str, call: Callable[[], object]) -> None:
    import shlex

    CliRunner().invoke(app, shlex.split(command))
    with pytest.raises(Seen):
        call()
    by_command, by_function = asked
    assert by_function == by_command


def test_every_option_of_the_specifications_has_its_word() -> None:
    common = {*SamplingOptions.model_fields, *ModelOptions.model_fields}
    settled = {"target", "strategies", "strategy_files", "workloads", "limit", "n_predict", "quick", "engines"}
    told_otherwise = {"card", "arm", "group", "sampling", "model", "prompt_files", "passes"}
    in_signature = {ReplayOptions: {"trace"}}
    for kind, words, more in (
        (RunSpec, options.CompareWords, {"prompts", "engine", "with_llama_server", *common}),
        (ProfileSpec, options.ProfileWords, {"lengths", *common}),
        (ReplayOptions, options.ReplayWords, {"n_predict"}),
    ):
        own = set(kind.model_fields) - settled - told_otherwise - in_signature.get(kind, set())  # type: ignore[attr-defined,call-overload]
        assert words.__optional_keys__ == own | more  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: specdec.compare(n_predct=3), "specdec.compare: there is no option 'n_predct'. Did you mean 'n_predict'?"),
        (lambda: specdec.compare(n_predict=0), "n_predict: Input should be greater than or equal to 1 (given: 0)."),
        (lambda: specdec.compare(temp=-1.0), "See help(specdec.compare)."),
        (lambda: specdec.compare(strategies=3), "3 is not a strategy."),
        (lambda: specdec.compare(strategies=int), "is not a strategy."),
        (lambda: specdec.compare(strategies="nothing.py:It"), "there is no file nothing.py"),
        (lambda: specdec.compare(strategies="ngrm", progress=False), "Unknown strategy 'ngrm'."),
        (lambda: specdec.compare("no.gguf", progress=False), "there is no file no.gguf."),
        (lambda: specdec.load_run("nowhere"), "no run match 'nowhere' under results."),
        (lambda: specdec.replay_trace("no.npz", progress=False), "no.npz"),
        (lambda: specdec.resume(RUN, results=REFERENCE, progress=False), "is finished."),
    ],
)  # fmt: skip
def test_faults_are_one_line(call: Callable[[], object], said: str) -> None:
    assert said in refusal(call)


def test_a_class_of_a_notebook_goes_to_workers_with_all_it_uses(notebook: dict[str, Any], tmp_path: Path) -> None:
    own = notebook["AfterLast"]
    text, files = named([own, own(notebook["Own"](n_max=2)), "ngram"], Path("results"))
    assert text == "after-last,after-last(n_max=2),ngram"
    (file,) = files
    assert file.startswith("results/strategies/after-last-")
    made = load_class(file)()
    assert Path(file.rpartition(":")[0]).read_text().startswith("from __future__ import annotations\n")
    context = np.array([5, 1, 2, 3, 4, 6, 7, 5], np.int32)
    assert made.propose(context, 9).token_ids == [1, 2, 3, 4]
    assert Registry(files).get("after-last").file_sha256
    assert named(own, Path("results"))[1] == files  # the same text is the same file


def test_what_cannot_go_to_workers_is_said(notebook: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(lambda: named(notebook["Table"], Path("results")))
    assert "the strategy Table uses 'TABLE', a ndarray" in said
    assert "my_strategy.py:Class" in said
    for i in range(len(CELLS)):
        monkeypatch.delitem(linecache.cache, f"<ipython-input-{i}>")
    assert "the source of 'AfterLast', which AfterLast needs, is not to be had." in refusal(
        lambda: self_contained(notebook["AfterLast"])
    )

    class Inner(Strategy):
        name = "inner"

        def propose(self, context: Any, max_tokens: int) -> specdec.Draft:
            return specdec.Draft()

    assert "is not at the top level" in refusal(lambda: named(Inner, Path("results")))
    cascade = Registry().plan("cascade(ngram-mod, ngram-simple)")[-1].build()
    assert "Write it as text: 'cascade(" in refusal(lambda: named(cascade, Path("results")))


def test_known_classes_and_files_need_no_copy(tmp_path: Path, notebook: dict[str, Any]) -> None:
    mod = Registry().get("ngram-mod").cls
    assert named(mod(mod.Options(n_match=16)), tmp_path) == ("ngram-mod(n_match=16)", ())
    (tmp_path / "mine.py").write_text("".join(CELLS[:5]))
    given = f"{tmp_path}/mine.py:AfterLast"
    assert named(["mtp", given], tmp_path) == ("mtp,after-last", (given,))
    assert named(["mtp", f"{given}(n_max=2)"], tmp_path) == ("mtp,after-last(n_max=2)", (given,))
    text, files = named(load_class(given), tmp_path)
    assert (text, files) == ("after-last", (given,))


def test_a_live_run_from_a_notebook(notebook: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int, str]] = []
    run = specdec.compare(
        strategies=[notebook["AfterLast"], "ngram-mod"], workloads="demo-edit", limit=1, n_predict=24, warmup=0, threads=1,
        progress=lambda *what: told.append(what),
    )  # fmt: skip
    assert [t[:2] for t in told if t[1]] == [(1, 3), (2, 3), (3, 3)]
    assert any(line.startswith("Writing results") for _, _, line in told)
    assert [r["strategy"] for r in run.table() if r["workload"] == "all"] == ["none", "after-last", "ngram-mod"]
    assert {s["status"] for s in run.samples()} == {"ok"}
    assert run.verdicts["demo-edit"]["after-last"] == "cannot tell"
    assert run.text("demo-edit-01/after-last") == run.text(run.samples()[0])
    assert specdec.load_run().id == run.id
    assert "is finished" in refusal(lambda: specdec.resume(run, progress=False))

    trace = run.record("t.npz")
    tried = specdec.replay_trace(trace, [notebook["AfterLast"], "ngram-mod(n_match=8|16)"], progress=False)
    assert len(tried.table()) == 2 * 4
    live, again = (next(r for r in x.table() if r["strategy"] == "after-last") for x in (run, tried))
    assert (live["drafted"], live["accepted"]) == (again["drafted"], again["accepted"])
    assert "its tokens are a recording's" in refusal(lambda: tried.text(1))
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


def test_a_search_has_a_row_for_every_setting() -> None:
    tried = specdec.replay_trace(TRACE, "ngram-simple(size_n=4|8|12|16)", search=True, progress=False)
    assert {r["strategy"] for r in tried.table()} >= {"none", "ngram-simple(size_n=4)", "ngram-simple(size_n=8)"}


def test_an_interrupted_run_is_finished(tmp_path: Path) -> None:
    run = specdec.compare(
        strategies="none", workloads="demo-edit", limit=2, n_predict=8, warmup=0, threads=1, progress=False
    )
    file = run.folder / "samples.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    meta = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(meta | {"status": "started"}))
    broken = specdec.load_run("latest")
    assert not broken.finished
    assert len(specdec.resume(broken, progress=False).samples()) == 2


def test_a_profile_is_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    profile = specdec.take_profile(strategies="none", depths=64, lengths=[1, 2], repeats=2, threads=1, progress=False)
    assert "Verify cost curve" in str(profile)
    assert profile._repr_html_().startswith("<pre>")
    assert {s["kind"] for s in profile.samples()} >= {"steps", "prompt"}
    assert "is a profile: it has no rows" in refusal(profile.table)
    assert "it has no texts" in refusal(lambda: profile.text(1))
    assert "cannot be resumed" in refusal(lambda: specdec.resume(profile, progress=False))
    assert json.loads(profile.report("json", "p.json").read_text())["curves"]


def test_a_notebook_shows_one_changing_text() -> None:
    shown: list[str] = []

    class Place:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/plain"])

    observer = InNotebook(lambda *_args, **_kwargs: Place())
    observer.announce("Loading")
    observer.start(2, 0)
    observer.setting("mtp")
    assert shown == ["Loading\n", "Loading\n1 of 2: mtp"]


def test_progress_goes_to_stderr_or_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    for progress, said in ((True, "Loading\n"), (False, "")):
        with observed(progress) as observer:
            observer.announce("Loading")
        out = capsys.readouterr()
        assert (out.out, out.err) == ("", said)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "".join(CELLS[:5])
        + "import specdec\nrun = specdec.compare(strategies=AfterLast, workloads='demo-edit', limit=1, n_predict=8,"
        " warmup=0, threads=1, progress=False)\nprint(len(run.samples()))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "2\n"
