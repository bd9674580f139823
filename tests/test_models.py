"""Models by name: Hugging Face through a stand-in on the loopback, Ollama's store, the list of what is here."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.file_download
import pytest
from fake_hub import COMMIT, FakeHub

from specdec.cli import main
from specdec.demo import FILES, FOLDER
from specdec.errors import SpecdecError
from specdec.llama.gguf import header_length, read_header
from specdec.models import hub, model_path
from specdec.models.local import find_models
from specdec.models.names import HubName, hub_names
from specdec.models.quants import models_in, named
from specdec.models.roles import describe_models

REPOSITORY = "org/tiny-GGUF"
TARGET, DRAFT = (FOLDER / FILES[name] for name in ("demo", "demo-draft"))
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def server() -> Iterator[FakeHub]:
    target, draft = TARGET.read_bytes(), DRAFT.read_bytes()
    files = {"tiny-Q5_0.gguf": target, "small/tiny-Q4_K_M.gguf": draft, "mmproj-F16.gguf": b"x", "README.md": b"x"}
    half = len(draft) // 2
    files |= {"tiny-Q8_0-00001-of-00002.gguf": draft[:half], "tiny-Q8_0-00002-of-00002.gguf": draft[half:]}
    stand_in = FakeHub(REPOSITORY, files)
    yield stand_in
    stand_in.close()


@pytest.fixture
def cache(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library in this process and in children speaks with the stand-in alone; its cache is a new folder."""
    folder = tmp_path / "hub"
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HOME", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("HF_ENDPOINT", server.url), ("HF_HUB_CACHE", folder), ("NO_PROXY", "127.0.0.1")):
        monkeypatch.setenv(name, str(value))
    at(server.url, monkeypatch)
    return folder


def at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command line; (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["specdec", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        captured = capsys.readouterr()
        return int(done.value.code or 0), captured.out, captured.err

    return run


def silent(line: str) -> None:
    pass


def refusal(name: str) -> str:
    with pytest.raises(SpecdecError) as caught:
        hub.fetch(name, silent)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a name means


@pytest.mark.parametrize(
    ("file", "quant"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "Q4_K_M"),
        ("UD/Qwen3-UD-Q4_K_XL-00001-of-00001.gguf", "UD-Q4_K_XL"),
        ("ggml-model-q4_0.gguf", "q4_0"),
        ("model.F16.gguf", "F16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("a-IQ2_XXS.gguf", "IQ2_XXS"),
        ("Q8_0-draft.gguf", "Q8_0"),
        ("stories260K.gguf", "stories260K"),
    ],
)
def test_the_quantisation_in_a_file_name(file: str, quant: str) -> None:
    assert [m.quant for m in models_in({file: 1})] == [quant]


def test_models_in_a_list_of_files() -> None:
    parts = {f"big-Q8_0-0000{i}-of-00003.gguf": 10 for i in (1, 2, 3)}
    files = parts | {"big-BF16-00001-of-00002.gguf": 9, "mmproj-F16.gguf": 1, "a-Q4_0.gguf": 2, "mtp/a-Q4_0.gguf": 3}
    models = models_in(files | {"x.safetensors": 5, "m.imatrix.gguf": 1})
    assert [(name, m.bytes, len(m.files)) for name, m in named("o/r", models)] == [
        ("hf:o/r/a-Q4_0.gguf", 2, 1), ("hf:o/r/mtp/a-Q4_0.gguf", 3, 1), ("hf:o/r:Q8_0", 30, 3),
    ]  # fmt: skip


def test_names_in_options_and_strategies() -> None:
    text = 'draft(model=hf:a/b:Q4_0, n_max=2),cascade(ngram-mod, draft(model="hf:c/d/x y.gguf"))'
    assert hub_names("demo", "hf:a/b:Q4_0", text)[:1] == ["hf:a/b:Q4_0"]
    assert HubName.parse("hf:a/b/sub/x.gguf").file == "sub/x.gguf"
    for wrong in ("hf:a", "hf:a/b:", "hf:a/b/x.bin", "hf:/b:Q4"):
        with pytest.raises(SpecdecError, match="names no model"):
            model_path(wrong)


# Downloads


def test_a_download_then_the_cache_alone(server: FakeHub, cache: Path) -> None:
    said: list[str] = []
    path = hub.fetch(f"hf:{REPOSITORY}:q5_0", said.append)
    assert path == cache / "models--org--tiny-GGUF" / "snapshots" / COMMIT / "tiny-Q5_0.gguf"
    assert path.read_bytes() == TARGET.read_bytes()
    assert "18.5 MB" in said[0]
    asked = len(server.asked)
    server.refuse = (500, "")
    assert hub.fetch(f"hf:{REPOSITORY}:Q5_0", said.append) == model_path(f"hf:{REPOSITORY}:Q5_0") == path
    assert (len(server.asked), len(said)) == (asked, 1)
    assert huggingface_hub.try_to_load_from_cache(REPOSITORY, "tiny-Q5_0.gguf", cache_dir=cache) == str(path)


def test_all_parts_come_and_the_first_is_given(server: FakeHub, cache: Path) -> None:
    path = hub.fetch(f"hf:{REPOSITORY}:Q8_0", silent)
    assert path.name == "tiny-Q8_0-00001-of-00002.gguf"
    second = path.with_name("tiny-Q8_0-00002-of-00002.gguf")
    assert path.read_bytes() + second.read_bytes() == DRAFT.read_bytes()
    second.unlink()
    with pytest.raises(SpecdecError, match="specdec models get"):
        model_path(f"hf:{REPOSITORY}:Q8_0")


def test_a_connection_that_breaks_is_taken_up_again(
    server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    server.cut = [3 << 16]
    path = hub.fetch(f"hf:{REPOSITORY}:Q5_0", silent)
    assert path.read_bytes() == TARGET.read_bytes()
    assert server.ranges() == [None, f"bytes={3 << 16}-"]


def test_a_download_that_was_interrupted_goes_on(server: FakeHub, cache: Path) -> None:
    server.stall = 12 << 20
    command = [sys.executable, "-m", "specdec", "models", "get", f"hf:{REPOSITORY}:Q5_0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while not (found := [p for p in cache.glob("*/blobs/*.part") if p.stat().st_size]):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=300)
    finally:
        child.kill()
    assert child.returncode == 130
    assert said.splitlines()[-1] == "specdec: interrupted."
    arrived = found[0].stat().st_size
    server.stall = None
    told: list[str] = []
    path = hub.fetch(f"hf:{REPOSITORY}:Q5_0", told.append)
    assert "of it missing" in told[0]
    assert server.ranges()[-1] == f"bytes={arrived}-"
    assert path.read_bytes() == TARGET.read_bytes()
    assert not list(cache.glob("*/blobs/*.part"))


def test_damaged_bytes_are_not_kept(server: FakeHub, cache: Path) -> None:
    server.lies = True
    assert "damaged" in refusal(f"hf:{REPOSITORY}:Q4_K_M")
    assert not list(cache.glob("*/blobs/*"))


def test_too_little_room_is_said_before(server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 10_000_000))
    assert "needs 18.5 MB" in refusal(f"hf:{REPOSITORY}:Q5_0")
    assert server.ranges() == []
    assert hub.fetch(f"hf:{REPOSITORY}:Q4_K_M", silent).is_file()


# Faults


def test_what_there_is_is_listed(server: FakeHub, cache: Path) -> None:
    for name, start in ((":Q2_K", "not there"), ("", "more than one"), ("/none.gguf", "not there")):
        said = refusal(f"hf:{REPOSITORY}{name}")
        assert start in said
        assert f"hf:{REPOSITORY}:Q5_0 (18.5 MB)" in said
        assert "mmproj" not in said


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "there is no such repository, or it is private"),
        (401, "", "there is no such repository, or it is private"),
        (403, "GatedRepo", "gated"),
        (403, "", "access was refused (403)"),
        (418, "", "answered 418"),
    ],
)
def test_refusals(server: FakeHub, cache: Path, status: int, code: str, said: str) -> None:
    server.refuse = (status, code)
    assert said in refusal(f"hf:{REPOSITORY}:Q5_0")


def test_without_network(server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at("http://127.0.0.1:1", monkeypatch)
    assert "cannot be reached" in refusal(f"hf:{REPOSITORY}:Q5_0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(f"hf:{REPOSITORY}:Q5_0")


def test_without_the_library(server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.fetch(f"hf:{REPOSITORY}:Q4_K_M", silent)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert 'pip install "specdec[hf]"' in refusal(f"hf:{REPOSITORY}:Q5_0")
    assert hub.fetch(f"hf:{REPOSITORY}:Q4_K_M", silent) == path


def test_the_command_ends_with_2(server: FakeHub, call: Call) -> None:
    server.refuse = (404, "RepoNotFound")
    for command in ("compare", "profile", "record", "plan"):
        code, out, err = call(command, "--target", f"hf:{REPOSITORY}:Q5_0")
        assert (code, out) == (2, "")
        assert "there is no such repository" in err.splitlines()[-1]
    assert not Path("results").exists()


# Use


def test_compare_and_again_without_network(server: FakeHub, cache: Path, call: Call) -> None:
    target, draft = (f"hf:{REPOSITORY}:{quant}" for quant in ("Q5_0", "Q4_K_M"))
    words = ["compare", "--target", target, "-w", "demo-code", "--limit", "1", "-n", "8", "-t", "1", "--strategies"]
    code, _, err = call(*words, "ngrm")
    assert (code, server.asked) == (2, []), "a fault in the strategies is told before anything is downloaded"
    assert "ngram-simple" in err
    for _ in range(2):
        code, out, err = call(*words, f"draft(model={draft})")
        assert code == 0, err
        assert "tiny-Q5_0.gguf" in out
        assert "Downloading" in err or server.refuse
        server.refuse = (500, "")
    run = min(Path("results").iterdir())
    meta = json.loads((run / "run.json").read_text())
    assert meta["spec"]["target"] == target
    assert draft in meta["strategies"][1]["label"]
    shutil.rmtree(cache)
    assert call("show", run, "1")[0] == 0
    code, _, err = call("export", run, "--format", "llama-server")
    assert code == 2
    assert f"specdec models get {target}" in err


def test_plan_reads_headers_alone(server: FakeHub, cache: Path, call: Call) -> None:
    target, draft = (f"hf:{REPOSITORY}:{quant}" for quant in ("Q5_0", "Q4_K_M"))
    code, out, err = call("plan", "--card", "8GB", "--target", target, "--draft", draft, "--json")
    assert code == 0, err
    assert not cache.exists()
    assert {r for r in server.ranges() if r} == {"bytes=0-4194303", f"bytes=0-{DRAFT.stat().st_size - 1}"}
    far, near = (json.loads(o)["plans"] for o in (out, call("plan", "--card", "8GB", "--target", "demo", "--json")[1]))
    assert [(p["strategy"], p["items"]) for p in far] == [(p["strategy"], p["items"]) for p in near]
    planned = next(p for p in far if p["strategy"] == "draft")
    for name in ("tiny-Q5_0.gguf", "small/tiny-Q4_K_M.gguf"):
        assert str(cache / "models--org--tiny-GGUF" / "snapshots" / COMMIT / name) in planned["llama_server"]
    assert {target, draft} <= set(planned["specdec"].split())
    assert call("vocab", target, draft)[:2] == (0, "compatible\n")
    with pytest.raises(SpecdecError, match="not on this machine"):
        model_path(target)


def test_a_header_is_known_by_its_first_bytes() -> None:
    data, length = TARGET.read_bytes(), read_header(TARGET).header_bytes
    assert header_length(data) == header_length(data[:length]) == length
    for cut in (0, 3, 20, 4000, length // 2, length - 64):
        assert header_length(data[:cut]) is None
    with pytest.raises(SpecdecError):
        header_length(b"PK\x03\x04")


# What is here


def test_the_list_of_models(server: FakeHub, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    hub.fetch(f"hf:{REPOSITORY}:Q4_K_M", silent)
    store = tmp_path / "home/.ollama/models"
    manifest = store / "manifests/where/library/tiny/latest"
    for folder in (manifest.parent, store / "blobs", tmp_path / "mine/deep"):
        folder.mkdir(parents=True)
    shutil.copy(TARGET, store / "blobs/sha256-beef")
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:beef"}]
    manifest.write_text(json.dumps({"layers": layers}))
    (tmp_path / "mine/deep/broken.gguf").write_bytes(b"GGUF\x03")
    shutil.copy(FOLDER / FILES["demo-other"], tmp_path / "mine/deep/other.gguf")

    found = {m["name"]: m for m in json.loads(call("models", "--dir", "mine", "--json")[1])["models"]}
    assert set(found) == {
        *FILES, f"hf:{REPOSITORY}:Q4_K_M", "ollama:tiny:latest", "mine/deep/broken.gguf", "mine/deep/other.gguf",
    }  # fmt: skip
    for name in found:
        assert str(model_path(name)) == found[name]["path"]
    assert model_path("ollama:tiny") == store / "blobs/sha256-beef"
    draft = found[f"hf:{REPOSITORY}:Q4_K_M"]
    assert draft["draft_for"] == ["demo", "ollama:tiny:latest"]
    assert (draft["target"], draft["quant"], draft["vocabulary"], draft["layers"]) == (True, "Q5_0", 8192, 4)
    assert found["mine/deep/other.gguf"]["draft_for"] == []
    assert (found["ollama:tiny:latest"]["mtp_layers"], found["ollama:tiny:latest"]["experts"]) == (1, 16)
    assert "cannot be read" in found["mine/deep/broken.gguf"]["fault"]

    text = call("models", "--dir", "mine")[1]
    assert f"\nhf:{REPOSITORY}:Q4_K_M\n" in text
    assert "draft for demo, ollama:tiny:latest" in text
    assert max(map(len, text.splitlines())) <= 80
    looked = " ".join(text.split("Looked in ")[1].split())
    assert looked.startswith("mine, ., models, ")
    assert "~/.ollama/models" in looked
    with pytest.raises(SpecdecError, match="Ollama has ollama:tiny:latest"):
        model_path("ollama:nothing")


def test_a_layer_of_its_own_is_for_its_targets(tmp_path: Path) -> None:
    from specdec.testing.heads import write_part

    write_part(TARGET, tmp_path / "mtp.gguf", "mtp")
    found = {d.model.name: d for d in describe_models(find_models(tmp_path))}
    alone = found[str(tmp_path / "mtp.gguf")]
    assert (alone.target, alone.draft_for, alone.mtp_for) == (False, (), ("demo",))


def test_the_files_of_a_repository(server: FakeHub, call: Call) -> None:
    lines = [line.split() for line in call("models", "files", f"hf:{REPOSITORY}")[1].splitlines()[2:]]
    expected = {f"hf:{REPOSITORY}:Q8_0": "2", f"hf:{REPOSITORY}:Q4_K_M": "1", f"hf:{REPOSITORY}:Q5_0": "1"}
    assert {line[0]: line[-1] for line in lines} == expected
    assert server.ranges() == []
