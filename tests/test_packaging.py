"""What is shipped: the wheel's contents, and that an installed copy finds its strategies and prompts."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FROM_ELSEWHERE = (
    "import specdec, specdec.strategies, specdec.prompts; from specdec.registry import Registry;"
    "from specdec.workloads import builtin_prompts;"
    "print(specdec.__file__, *Registry().names(), len(builtin_prompts()), sep='\\n')"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # A copy, so that no build folder appears in the checkout.
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    source = tmp_path_factory.mktemp("source")
    for name in files.stdout.splitlines():
        if (
            name.startswith(("specdec/", "strategies/", "prompts/", "pyproject", "README", "LICENSE"))
            and (ROOT / name).is_file()
        ):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", out, source], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_packages_data_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "specdec/decode.py", "specdec/cli/compare.py", "specdec/llama/target.py", "specdec/report/tables.py",
        "specdec/testing/nano.py", "specdec/strategies/ngram_mod.py", "specdec/prompts/code.jsonl", "specdec/py.typed",
    ):  # fmt: skip
        assert part in names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert not [n for n in names if n.startswith(("tests", "strategies", "prompts", "benchmarks"))]


def test_every_package_folder_is_listed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for path in ROOT.glob("specdec/**/*.py"):
        assert str(path.relative_to(ROOT)) in names


def test_installed_copy_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", FROM_ELSEWHERE], env=env, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    where, *names, prompts = done.stdout.split()
    assert where.startswith(str(site))
    assert {"none", "ngram-simple", "ngram-mod"} <= set(names)
    assert int(prompts) >= 110


def test_editable_install_sees_the_checkout(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FROM_ELSEWHERE], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert {"none", "ngram-simple", "ngram-mod"} <= set(done.stdout.split())
