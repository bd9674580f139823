"""The layer over llama.cpp: options, tokens, templates, probe, errors. Nano models; real ones where they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from specdec.errors import SpecdecError
from specdec.llama import library
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.models import model_path
from specdec.spec import ModelOptions
from specdec.testing.nano import write_nano
from specdec.types import Message


@pytest.fixture(scope="module")
def model(nano_hybrid: Path) -> LlamaModel:
    return LlamaModel(nano_hybrid, ModelOptions(threads=1))


def test_an_abort_of_llama_cpp_is_one_line(tmp_path: Path) -> None:
    """Not a dump of the stack and a signal: what its log said last of memory, or else the message itself."""
    code = (
        "import ctypes, sys\n"
        "from specdec.llama.library import ggml_function, llama, log\n"
        "llama()\n"
        "log.write(4, sys.argv[1])\n"
        "abort = ggml_function('ggml_abort', None, [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p])\n"
        "print('before', end='')\n"
        "abort(b'x.cu', 7, b'CUDA error')\n"
    )
    memory = "x.cu:7: CUDA error: CUDA error: out of memory. Take a smaller"
    for logged, why in (("nothing\n", "x.cu:7: CUDA error."), ("CUDA error: out of memory\n", memory)):
        done = subprocess.run([sys.executable, "-c", code, logged], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "before")
        assert done.stderr.startswith("specdec: llama.cpp ended the program: ")
        assert why in done.stderr
        assert done.stderr.count("\n") == 1


def test_tokens_and_pieces(model: LlamaModel) -> None:
    ids = model.tokenize("abc")
    assert b"".join(model.piece(int(t)) for t in ids) == b"abc"
    assert model.end_of_text == {510, 511}
    assert model.piece(511) == b"", "control tokens are not text"
    assert model.tokenize("<|im_end|>").tolist() == [511]


def test_chat_template_of_the_file(model: LlamaModel) -> None:
    ids = model.chat([Message("user", "hi")], thinking=False)
    assert ids[0] == 510, "the template's own begin-of-text, once"
    assert b"".join(model.piece(int(t)) for t in ids) == b"user: hi\nassistant:"


def test_without_a_template_chatml_is_used_and_said() -> None:
    demo = LlamaModel(model_path("demo"), ModelOptions(threads=1))
    with pytest.warns(UserWarning, match="has no chat template: ChatML is used"):
        ids = demo.chat([Message("system", "s"), Message("user", "hi")], thinking=False)
    text = b"".join(demo.piece(int(t)) for t in ids)
    assert b"user\nhi" in text
    assert text.endswith(b"assistant\n")


def test_a_template_that_knows_no_system_role_gets_it_in_the_users_message(tmp_path: Path) -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
        "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    model = LlamaModel(write_nano(tmp_path / "strict.gguf", "dense", template=template), ModelOptions(threads=1))
    ids = model.chat([Message("system", "be brief"), Message("user", "hi")], thinking=False)
    assert b"".join(model.piece(int(t)) for t in ids) == b"[user]be brief\n\nhi"
    with pytest.raises(SpecdecError, match="refuses these messages: alternate"):
        model.chat([Message("user", "a"), Message("user", "b")], thinking=False)


def test_logits_only_where_asked(model: LlamaModel) -> None:
    target = LlamaTarget(model, 256, longest_draft=4)
    ids = np.arange(5, dtype=np.int32)
    every = target.decode(ids, 0, "all").copy()
    target.memory.clear()
    last = target.decode(ids, 0, "last")
    assert (every.shape, last.shape) == ((5, 512), (1, 512))
    assert np.array_equal(every[-1], last[0])
    assert target.decode(ids, 5, "none").shape == (0, 512)
    target.close()
    target.close()


@pytest.mark.parametrize(
    "options",
    [
        {"cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attn": "on"},
        {"load_mode": "none"},
        {"load_mode": "mmap", "op_offload": False},
        {"device": "none", "gpu_layers": 0},
        {"n_cpu_moe": 3},
        {"override_tensor": (r"blk\.0\.ffn_.*_exps=CPU",)},
        {"batch_size": 32, "ubatch_size": 16, "threads_batch": 2},
    ],
)
def test_options_reach_llama_cpp(nano_hybrid: Path, options: dict[str, object]) -> None:
    model = LlamaModel(nano_hybrid, ModelOptions(threads=1, **options))  # type: ignore[arg-type]
    target = LlamaTarget(model, 256, 2, 4)
    assert np.isfinite(target.decode(np.arange(8, dtype=np.int32), 0, "last")).all()
    log = "\n".join(target.log_lines)
    if "cache_type_k" in options:
        assert "q8_0" in log
    if "batch_size" in options:
        assert (target.n_batch, "n_ubatch              = 16" in log) == (32, True)
    target.close()
    model.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "CUDA9"}, "--device: unknown device 'CUDA9'. Known: none,"),
        ({"override_tensor": ("x=Moon",)}, "unknown buffer type 'Moon'. Known: CPU"),
        ({"override_tensor": ("x",)}, "wants PATTERN=BUFFER"),
        ({"override_tensor": ("(=CPU",)}, "is not a regular expression"),
    ],
)
def test_bad_placements(nano_hybrid: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecdecError) as e:
        LlamaModel(nano_hybrid, ModelOptions(**options))  # type: ignore[arg-type]
    assert message in str(e.value)


@pytest.mark.parametrize(
    ("load_mode", "on_gpu", "warns"), [("mmap", True, True), ("mmap", False, False), ("none", True, False)]
)
def test_experts_in_a_mapped_file_are_told_of(nano_hybrid: Path, load_mode: str, on_gpu: bool, warns: bool) -> None:
    """By llama.cpp's real log, in a fresh process: it says so once in each."""
    code = (
        "from pathlib import Path; from specdec.llama import model; from specdec.spec import ModelOptions\n"
        f"model.runs_on_gpu = lambda options: {on_gpu}\n"
        f"options = ModelOptions(threads=1, n_cpu_moe=2, load_mode={load_mode!r})\n"
        f"model.LlamaModel(Path({str(nano_hybrid)!r}), options, extra_buffers=False)\n"
        f"assert any(model._MAPPED_EXPERTS in line for line in model.log.text()) is {load_mode == 'mmap'}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("out of a mapped file" in done.stderr) is warns


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "ggml_aligned_malloc: insufficient memory (attempted to allocate 262144.00 MB)",
            "out of memory: a context of 512",
        ),
        (
            "llama_init_from_model: quantized V cache requires flash attention",
            "cannot make a context of 512 tokens: .*flash",
        ),
    ],
)
def test_a_context_that_cannot_be_had(nano_dense: Path, line: str, message: str) -> None:
    """With log lines of a real failure: making it happen here would take the machine's memory."""

    class NoContext:
        def __init__(self, lib: object) -> None:
            self._real = lib

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def llama_init_from_model(self, *_: object) -> None:
            library.log.write(4, line + "\n")

    model = LlamaModel(nano_dense, ModelOptions(threads=1))
    model._lib = NoContext(model._lib)  # type: ignore[assignment]
    with pytest.raises(SpecdecError, match=message):
        LlamaTarget(model, 512)


def test_snapshots_of_an_architecture_without(nano_dense: Path) -> None:
    target = LlamaTarget(LlamaModel(nano_dense, ModelOptions(threads=1)), 256, snapshots=4)
    assert target.memory.snapshots == 0


class TestLibrary:
    def test_a_crashing_probe_is_survived_and_remembered(self, isolated: Path) -> None:
        crash = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
        fine = [sys.executable, "-c", ""]
        assert library.probe("a", crash) is False
        assert library.probe("a", fine) is False, "asked once only"
        assert library.probe("b", fine) is True

    def test_the_real_probe_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It exits 0 or dies of the fault it looks for; a Python error would be a fault of ours."""
        done = subprocess.run(
            [sys.executable, "-m", "specdec.llama.amx_probe"], capture_output=True, text=True, check=False
        )
        assert done.returncode <= 0, done.stderr
        monkeypatch.setattr(library, "cpu_has_amx", lambda: True)
        assert library.extra_buffers_are_safe() is (done.returncode == 0)

    def test_amx_is_read_from_cpuinfo(self, tmp_path: Path) -> None:
        info = tmp_path / "cpuinfo"
        info.write_text("flags : fpu amx_bf16 amx_tile amx_int8\n")
        assert library.cpu_has_amx(info)
        info.write_text("flags : fpu avx2\n")
        assert not library.cpu_has_amx(info)
        assert not library.cpu_has_amx(tmp_path / "absent")

    def test_extra_buffers_off_with_one_warning(self, nano_dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("specdec.llama.model.extra_buffers_are_safe", lambda: False)
        with pytest.warns(UserWarning, match="extra buffer types are off") as caught:
            LlamaModel(nano_dense, ModelOptions(threads=1))
        assert len(caught) == 1

    @pytest.mark.parametrize("found", ["0.3.35", "0.3.37", "0.4.0", "1.0"])
    def test_other_versions_are_refused(self, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "version", lambda _: found)
        library.llama.cache_clear()
        with pytest.raises(SpecdecError, match=f"llama-cpp-python {found} is installed; specdec knows 0.3.36"):
            library.llama()


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-0.5b"])
def test_real_models_chat(real_model: Callable[[str], Path], name: str) -> None:
    model = LlamaModel(real_model(name), ModelOptions())
    text = b"".join(model.piece(int(t)) for t in model.chat([Message("user", "Say hello.")], thinking=False)).decode()
    assert "Say hello." in text
    assert text.rstrip().endswith("assistant")
    target = LlamaTarget(model, 512)
    ids = model.tokenize("The capital of France is")
    assert b"Paris" in model.piece(int(target.decode(ids, 0, "last")[0].argmax()))
    target.close()
    model.close()
