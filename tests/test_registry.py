"""Strategy syntax, labels, discovery by the three doors, errors that help."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import ClassVar

import pytest

from specdec.errors import SpecdecError
from specdec.registry import Registry, default_strategies, load_class, named
from specdec.syntax import Call, parse, render
from specdec.testing.conformance import check_strategy

MINE = """
from specdec import Draft, Strategy

class Mine(Strategy):
    name = "mine"
    def propose(self, context, max_tokens):
        return Draft([int(context[-1])] * min(3, max_tokens))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("none", [Call("none")]),
        (" a , b ", [Call("a"), Call("b")]),
        ("a()", [Call("a")]),
        ("a(n=3, p=0.5, on=true, off=FALSE, w=word)", [
            Call("a", (), (("n", 3), ("p", 0.5), ("on", True), ("off", False), ("w", "word")))]),
        ('a(model="C:\\\\my models\\\\x (1), y.gguf")', [Call("a", (), (("model", "C:\\my models\\x (1), y.gguf"),))]),
        ("ad(cascade(m, mtp(n_max=3)), k=1)", [
            Call("ad", (Call("cascade", (Call("m"), Call("mtp", (), (("n_max", 3),)))),), (("k", 1),))]),
    ],
)  # fmt: skip
def test_parse_and_render(text: str, calls: list[Call]) -> None:
    assert parse(text) == calls
    again = parse(", ".join(render(c) for c in calls))
    assert [render(c) for c in again] == [render(c) for c in calls]
    assert [dict(c.options) for c in again] == [dict(c.options) for c in calls]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "character 1 expected a strategy name"),
        ("a,", "character 3 expected a strategy name, found the end"),
        ("a(n=)", "character 5 expected a value"),
        ("a(n=1", "expected ','"),
        ("a b", "character 3 expected a comma or the end"),
        ('a(x="open)', "unclosed quote"),
        ("a(n=1,n=2)", "given twice"),
        ("a)", "found ')'"),
    ],
)
def test_syntax_errors_name_the_place(text: str, place: str) -> None:
    with pytest.raises(SpecdecError) as e:
        parse(text)
    assert place in str(e.value)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("ngram", ["none", "ngram-simple", "ngram-mod"]),
        ("none", ["none"]),
        ("ngram-mod(n_max=64)", ["none", "ngram-mod"]),
        ("ngram-mod(n_max=32, n_match=16)", ["none", "ngram-mod(n_match=16, n_max=32)"]),
        ("ngram-mod,ngram-mod(n_min=48)", ["none", "ngram-mod"]),
    ],
)
def test_canonical_labels(text: str, labels: list[str]) -> None:
    planned = Registry().plan(text)
    assert [p.label for p in planned] == labels
    assert [Registry().plan(p.label)[-1].label for p in planned] == labels, "a label can be typed in again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ngrm-simple", "Unknown strategy 'ngrm-simple'. Did you mean 'ngram-simple'? Known: none, "),
        ("ngram-mod(nmax=3)", "ngram-mod: unknown option 'nmax'. Known: n_match (int, 24), n_min (int, 48)"),
        ("ngram-mod(n_max=zero)", "ngram-mod: n_max: Input should be a valid integer"),
        ("ngram-simple(size_n=0)", "size_n: Input should be greater than or equal to 1"),
        ("none(none)", "takes no strategies"),
    ],
)  # fmt: skip
def test_errors_say_what_is_known(text: str, message: str) -> None:
    with pytest.raises(SpecdecError) as e:
        Registry().plan(text)
    assert message in str(e.value)


class TestFiles:
    def test_a_file_joins(self, mine: Path) -> None:
        planned = Registry((f"{mine}:Mine",)).plan("mine")[-1]
        assert planned.label == "mine"
        assert len(planned.found.file_sha256 or "") == 64
        assert load_class(str(mine)).name == "mine"

    def test_a_file_where_a_name_may_stand(self, mine: Path) -> None:
        assert named(f"{mine}:Mine") == ("mine", (f"{mine}:Mine",))
        assert named(f"{mine}:Mine(a=1, b=x)") == ("mine(a=1, b=x)", (f"{mine}:Mine",))
        assert named(str(mine)) == ("mine", (str(mine),))
        for text in ("mtp", "ngram-mod(n_max=2),mtp", "draft(model=x.py)", 'draft(model="x.py")'):
            assert named(text) == (text, ())
        folder = mine.parent / "a (1)"
        folder.mkdir()
        moved = mine.rename(folder / mine.name)
        assert named(f"{moved}:Mine") == ("mine", (f"{moved}:Mine",))

    def test_files_of_a_plan(self, mine: Path) -> None:
        planned = Registry((f"{mine}:Mine",)).plan("ngram-mod,cascade(ngram-mod, mine)")
        assert [p.files for p in planned] == [[], [], [f"{mine}:Mine"]]

    def test_default_strategies_are_joined_by_those_of_files(self, mine: Path) -> None:
        assert default_strategies(mtp=True, draft=True) == "mtp,draft,ngram"
        assert default_strategies(mtp=False, draft=False, files=(f"{mine}:Mine",)) == "ngram,mine"

    @pytest.mark.parametrize(
        ("change", "spec", "message"),
        [
            ("", "missing.py:Mine", "there is no file"),
            ("", "mine.py:Yours", "has no class 'Yours'. It has: Mine."),
            ("raise ValueError('boom')", "mine.py:Mine", "fails on import: ValueError: boom"),
            ("class Other(Strategy): name = 'other'", "mine.py:Other", "has no propose()"),
            ("class Plain: pass", "mine.py:Plain", "is not a strategy"),
            ("Mine.name = 'a b'", "mine.py:Mine", "its name is 'a b'"),
            ("class Second(Mine): name = 'second'", "mine.py", "has 2 strategies"),
        ],
    )
    def test_bad_files(self, mine: Path, change: str, spec: str, message: str) -> None:
        mine.write_text(MINE + change)
        with pytest.raises(SpecdecError) as e:
            load_class(spec)
        assert message in str(e.value)

    def test_two_of_one_name_show_both_origins(self, mine: Path) -> None:
        mine.write_text(MINE.replace('"mine"', '"ngram-mod"'))
        with pytest.raises(
            SpecdecError, match=r"Two strategies are called 'ngram-mod': built in .*ngram_mod.py.* and .*mine.py"
        ):
            Registry((f"{mine}:Mine",))


class TestEntryPoints:
    def points(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        point = importlib.metadata.EntryPoint("mine", value, "specdec.strategies")
        monkeypatch.setattr("specdec.registry.entry_points", lambda group: [point])

    def test_an_installed_package_joins(self, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(mine.parent)
        self.points(monkeypatch, "mine:Mine")
        assert "mine" in Registry().names()

    def test_a_broken_package_only_warns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.points(monkeypatch, "no_such_module:Thing")
        with pytest.warns(UserWarning, match="no_such_module"):
            assert "ngram-mod" in Registry().names()

    @pytest.mark.parametrize("value", ["json:JSONDecoder", "json:dumps", "builtins:len"])
    def test_something_else_than_a_strategy_only_warns(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.points(monkeypatch, value)
        with pytest.warns(UserWarning, match="is not a strategy"):
            assert "ngram-mod" in Registry().names()


class TestConformance:
    EXAMPLES: ClassVar = {
        "draft": 'draft(model="{nano}")',
        "cascade": "cascade(ngram-mod(n_match=3, n_min=1, n_max=6), ngram-simple(size_n=2, size_m=5))",
    }

    @pytest.mark.parametrize("name", [*Registry().names(), "draft(sample)", "cascade(mtp)"])
    def test_every_registered_strategy_conforms(self, name: str, nano_dense: Path) -> None:
        examples = self.EXAMPLES | {
            "draft(sample)": 'draft(model="{nano}", sample=true, n_max=4)',
            "cascade(mtp)": "cascade(ngram-mod(n_match=3, n_min=1, n_max=6), mtp(n_max=2))",
        }
        text = examples.get(name, name).replace("{nano}", str(nano_dense))
        failed = [c for c in check_strategy(Registry().plan(text)[-1].build) if not c.passed]
        assert not failed

    @pytest.mark.parametrize(
        ("fault", "check"),
        [
            ("return Draft([10**6])", "Greedy text"),
            ("return Draft([0] * 99)", "Drafts are no longer"),
            ("context.flags.writeable = True; context[0] = 1; return Draft()", "is not written to"),
            ("self.n = getattr(self, 'n', 0) + 1; return Draft([0] * min(self.n, 9))", "After reset()"),
            ("return Draft([int(context[-5])])", "One-token prompts"),
        ],
    )
    def test_faults_are_found(self, mine: Path, fault: str, check: str) -> None:
        mine.write_text(MINE.replace("return Draft([int(context[-1])] * min(3, max_tokens))", fault))
        failed = [c.name for c in check_strategy(load_class(str(mine))) if not c.passed]
        assert any(check in name for name in failed), failed
