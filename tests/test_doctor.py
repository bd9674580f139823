"""specdec doctor: what it says of broken builds, GPUs that are not used, stores of models; its exit codes. The shell."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml

from specdec.doctor import build, machine
from specdec.local_models import find_models
from specdec.monitor.nvml import Nvml

GOOD: dict[str, Any] = {
    "version": "0.3.36", "commit": "0c1e570", "backends": ["CPU"], "devices": [], "features": ["AVX2", "FMA", "F16C"],
    "mtp": None, "amx": {"cpu": False, "safe": True}, "log": [], "warnings": [],
}  # fmt: skip
CUDA = {"name": "CUDA0", "description": "RTX", "is_gpu": True, "free_bytes": 1 << 30, "total_bytes": 1 << 31}


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "specdec", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def cards() -> list[dict[str, Any]]:
    return [d.describe() for d in Nvml(FakeNvml()).devices]


def faults(checks: Any) -> list[tuple[str, str]]:
    return [(c.text, c.mend) for c in checks if c.state == "fault"]


def child(code: str) -> dict[str, Any]:
    return build.facts((sys.executable, "-c", code))


def test_a_sound_machine_has_no_faults() -> None:
    done = run("doctor", "--json")
    found = json.loads(done.stdout)
    wrong = [c for c in found["checks"] if c["state"] == "fault"]
    assert (done.returncode, wrong) == (0, []), done.stdout
    assert {"python", "llama.cpp", "mtp", "gpu", "ram", "cpu", "models", "prompts", "results"} <= {
        c["area"] for c in found["checks"]
    }
    assert {"demo", "demo-draft", "demo-other"} <= {m["name"] for m in found["models"]}
    assert "CPU" in found["build"]["backends"]


def test_a_missing_llama_cpp_is_one_line_and_a_command(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("raise ImportError('libllama.so: no such file')")
    done = run("doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("FAULT"))
    assert "libllama.so: no such file" in lines[at]
    assert lines[at + 1].strip().startswith("-> pip install --force-reinstall")
    assert lines[-1] == "1 fault to mend."
    assert done.stderr == ""


def test_a_build_that_kills_its_process_is_told_from_outside() -> None:
    killed = child("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    assert "SIGILL (the build uses instructions that this CPU lacks)" in killed["fault"]
    assert "exit code 3: no message" in child("raise SystemExit(3)")["fault"]
    assert "ValueError: odd" in child("raise ValueError('odd')")["fault"]
    assert child("print('noise'); print('{\"version\": 1}')") == {"version": 1}
    ((text, mend),) = faults(build.llama_cpp(killed))
    assert "SIGILL" in text
    assert "pip install" in mend
    assert list(build.processor(killed)) == []


def test_a_library_from_elsewhere_is_blamed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/opt/llama")
    ((_, mend),) = faults(build.llama_cpp({"fault": "cannot be loaded"}))
    assert mend.startswith("unset LLAMA_CPP_LIB_PATH (it is /opt/llama)")
    ((text, _),) = faults(build.llama_cpp(GOOD | {"warnings": ["built from abc"]}))
    assert text == "built from abc"


def test_a_gpu_that_the_build_cannot_use_is_a_fault_with_the_command() -> None:
    ((text, mend),) = faults(build.gpu(GOOD, cards(), None))
    assert text.startswith("NVIDIA GeForce RTX 4070 is there, but llama-cpp-python was built without CUDA")
    assert mend.startswith('CMAKE_ARGS="-DGGML_CUDA=on" pip install')
    said = GOOD | {"backends": ["CUDA", "CPU"], "log": ["ggml_cuda_init: no CUDA-capable device is detected"]}
    ((text, mend),) = faults(build.gpu(said, cards(), None))
    assert "no CUDA-capable device" in text
    assert "CUDA_VISIBLE_DEVICES" in mend
    assert faults(build.gpu(GOOD | {"devices": [CUDA]}, cards(), None)) == []
    (line,) = [c.text for c in build.gpu(GOOD | {"devices": [CUDA]}, cards(), None)]
    assert line == "GPU 0: NVIDIA GeForce RTX 4070, driver 560.35.03, 4.0 of 12.0 GiB free"


def test_no_gpu_is_normal_but_a_driver_that_does_not_answer_is_not(tmp_path: Path) -> None:
    assert faults(build.gpu(GOOD, [], "NVML Shared Library Not Found", tmp_path)) == []
    (card := tmp_path / "0000:01:00.0").mkdir()
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030000\n")
    ((text, mend),) = faults(build.gpu(GOOD, [], "Driver Not Loaded", tmp_path))
    assert "its driver does not answer (Driver Not Loaded)" in text
    assert "nvidia-smi" in mend
    ((_, mend),) = faults(build.gpu(GOOD, [], "Driver/library version mismatch", tmp_path))
    assert mend.startswith("restart")
    assert faults(build.gpu(GOOD | {"devices": [CUDA]}, [], "none", tmp_path)) == []  # another maker's, or Metal


def test_cpu_features_that_the_build_leaves_out(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags : fpu sse3 avx2 fma f16c avx512f\n")
    ((text, mend),) = faults(build.processor(GOOD | {"features": ["SSE3"]}, cpuinfo))
    assert "leaves out AVX2, FMA, F16C" in text
    assert "-DGGML_NATIVE=on" in mend
    good = list(build.processor(GOOD, cpuinfo))
    assert [c.state for c in good] == ["ok", "note"]  # AVX-512 may help, and need not
    amx = list(build.processor(GOOD | {"amx": {"cpu": True, "safe": False}}, tmp_path / "none"))
    assert "-mno-amx-tile" in (amx[-1].mend or "")


def test_a_quota_below_the_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdec.llama.model.default_threads", lambda: 16)
    monkeypatch.setattr("specdec.monitor.system.cores_allowed", lambda: 4.5)
    assert faults(machine.processor())[0][1] == "run with --threads 4"


def test_results_that_cannot_be_written() -> None:
    Path("file").write_text("")
    ((text, mend), *_) = faults(machine.folders(Path("file/results")))
    assert "is not a folder" in text
    assert "--results" in mend
    assert faults(machine.folders(Path("new/results"))) == []
    assert not Path("new").exists()


def test_models_in_the_stores_of_others(nano_dense: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    data = nano_dense.read_bytes()

    def put(path: str, content: bytes = data) -> Path:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
        return tmp_path / path

    here = put("here.gguf")
    put("broken.gguf", b"GGUF\x03")
    put("cache/huggingface/hub/models--o--r/snapshots/abc/UD/model-00001-of-00002.gguf")
    put("cache/huggingface/hub/models--o--r/snapshots/abc/UD/model-00002-of-00002.gguf", b"x" * 10)
    put("home/.lmstudio/models/pub/repo/x.gguf")
    put("home/.ollama/models/blobs/sha256-beef")
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:beef"}]
    put("home/.ollama/models/manifests/registry.ollama.ai/library/qwen/7b", json.dumps({"layers": layers}).encode())
    put("home/.ollama/models/manifests/registry.ollama.ai/library/qwen/odd", b"{}")
    (tmp_path / "again.gguf").symlink_to(here)
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    found = {(m.source, m.name): m for m in find_models() if m.source != "demo"}
    assert set(found) == {
        ("here", "again.gguf"), ("here", "broken.gguf"), ("Hugging Face", "o/r: model-00001-of-00002.gguf"),
        ("LM Studio", "pub/repo: x.gguf"), ("Ollama", "qwen:7b"),
    }  # fmt: skip
    assert found["Hugging Face", "o/r: model-00001-of-00002.gguf"].bytes == len(data) + 10
    assert found["Ollama", "qwen:7b"].architecture == "llama"
    assert "cannot be read as GGUF" in (found["here", "broken.gguf"].fault or "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("specdec doc", "doctor"),
        ("specdec compare --thr", "--threads"),
        ("specdec report la", "latest"),
        ("specdec compare -s ngram-mod,dr", "ngram-mod,draft"),
        ("specdec compare -w code,demo-c", "code,demo-code"),
        ("specdec strategies show non", "none"),
    ],
)
def test_the_shell_completes(words: str, expected: str) -> None:
    done = run(_SPECDEC_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    assert expected in done.stdout.split()
    assert done.stderr == ""


PROGRESS = """
import time
from specdec.cli.progress import watched
with watched() as observer:
    observer.announce("Loading")
    observer.start(3, 1)
    time.sleep(0.3)
"""


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_colours_and_control_codes_only_where_they_are_wanted(no_colour: str) -> None:
    command = [sys.executable, "-c", PROGRESS]
    piped = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": no_colour}, check=True
    )
    assert (piped.stdout, piped.stderr) == ("", "Loading\n")
    shown = on_terminal(command, NO_COLOR=no_colour, TERM="xterm-256color")
    assert "1/3" in shown
    assert ("\x1b[38;" in shown) is not bool(no_colour)


def test_the_command_alone_shows_its_help() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: specdec")
    assert "doctor" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].lstrip().startswith("strategies")


def on_terminal(command: list[str], **environment: str) -> str:
    """What a command writes on a terminal."""
    environment = {k: v for k, v in (os.environ | environment).items() if v}
    main, side = pty.openpty()
    with subprocess.Popen(command, stdout=side, stderr=side, stdin=side, env=environment) as process:
        os.close(side)
        out = b""
        while True:
            try:
                chunk = os.read(main, 65536)
            except OSError:  # the terminal closes with its last writer
                break
            if not chunk:
                break
            out += chunk
        process.wait()
    os.close(main)
    return out.decode("utf-8", "replace")
