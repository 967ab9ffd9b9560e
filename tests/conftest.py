"""What the cross-package tests share: the installed ``tn`` in processes of its own, and one tiny trained run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TRAIN = ("--data", "digits", "--data.train_size", "200", "--features", "4", "--model.prior.rank", "3")

Tn = Callable[..., subprocess.CompletedProcess[str]]


def tn_script() -> str:
    """The command as it was installed next to the interpreter that runs the tests."""
    found = shutil.which("tn", path=str(Path(sys.executable).parent))
    assert found is not None, "the command tn is not installed here"
    return found


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of every process: nothing of whoever runs the tests, one thread, a cache of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TN_", "PYTHON"))}
    return {**kept, "OMP_NUM_THREADS": "1", "TN_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="session")
def tn(environment: dict[str, str]) -> Tn:
    """Runs ``tn`` with arguments, and with more environment variables as keywords; returns the finished process."""

    def run(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [tn_script(), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**environment, **variables})

    return run


@pytest.fixture(scope="session")
def trained(tn: Tn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny trained model. Tests that change it copy it first."""
    out = tmp_path_factory.mktemp("trained") / "run"
    done = tn("fit", *TRAIN, "--epochs", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, every folder with none."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}
