"""The command line in processes of its own: what it prints, how it exits and what it imports on the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tn_core_fakes import write_distribution

HEAVY = ("torch", "lightning", "torchvision")
CODE = f"""
import sys
from tn_core.cli import main
status = main(sys.argv[1:])
print("imported", *sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""

PARTS = """
from typing import Annotated
from tn_core import hookimpl
from tn_core.components import Component

def orbit(around: Annotated[object, Component("priors")], times: int = 1) -> None:
    '''Goes round.

    Args:
        around: what to go round.
        times: how often.
    '''
    print("orbit", around, times)

def heavy() -> None:
    '''Imports torch.'''
    import torch

@hookimpl
def commands():
    return {"orbit": orbit, "heavy": heavy}

@hookimpl
def priors():
    return {"Saturn": "saturn_prior:Saturn", "Jupiter": "saturn_prior:Jupiter"}
"""
PRIOR = "import torch\nclass Saturn:\n    def __init__(self, rings: int = 7) -> None: ...\nclass Jupiter(Saturn): ...\n"


class Outcome:
    """What a process printed, and what it had imported."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        lines = done.stderr.splitlines()
        (imported,) = (line for line in lines if line.startswith("imported"))
        self.heavy = imported.split()[1:]
        self.errors = [line for line in lines if line != imported]
        self.out, self.status = done.stdout, done.returncode


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a plugin that has commands and priors, and whose targets import torch."""
    modules = {"saturn": PARTS, "saturn_prior": PRIOR, "torch": ""}  # an empty torch: the real one takes seconds
    write_distribution(tmp_path, "tn-saturn", modules, {"saturn": "saturn"}, "0.7")
    return tmp_path


def tn(site: Path, *arguments: str, disable: str = "tn-priors,tn-vae,tn-gan,tn-compvae,tn-eval", **env: str) -> Outcome:
    """Runs ``tn`` with tn-core and what is in ``site``: the other packages have tests of their own."""
    environment = {**os.environ, "PYTHONPATH": str(site), "TN_PLUGINS_DISABLE": disable, **env}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
    assert "imported" in done.stderr, done.stderr
    return Outcome(done)


def test_the_check_for_heavy_imports_sees_them(site: Path) -> None:
    assert "torch" in tn(site, "heavy").heavy


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(site: Path, arguments: list[str]) -> None:
    done = tn(site, *arguments)
    assert (done.status, done.heavy, done.errors) == (0, [], [])
    assert done.out.startswith("usage: tn COMMAND")
    for line in ("orbit        Goes round.", "plugins      Lists the installed plugins"):
        assert f"  {line}" in done.out


def test_version(site: Path) -> None:
    done = tn(site, "--version")
    assert (done.status, done.heavy) == (0, [])
    assert done.out.splitlines()[0].startswith("tn-core 0.")


def test_plugins_lists_what_each_offers(site: Path) -> None:
    done = tn(site, "plugins")
    assert (done.status, done.heavy, done.errors) == (0, [], [])
    assert "saturn  (tn-saturn 0.7)  ok\n    priors: Saturn, Jupiter\n    commands: orbit, heavy\n" in done.out
    assert "tn-core  (tn-core " in done.out


def test_plugins_lists_what_was_skipped_and_why(site: Path) -> None:
    write_distribution(site, "tn-bad", {"bad": "import a_missing_package"}, {"bad": "bad"}, "0.1")
    reason = "skipped while loading: ModuleNotFoundError: No module named 'a_missing_package'"
    done = tn(site, "plugins")
    assert (done.status, done.heavy) == (0, [])
    assert f"bad  (tn-bad 0.1)  {reason}\n" in done.out
    assert "saturn  (tn-saturn 0.7)  ok\n" in done.out
    assert done.errors == [f"tn: warning: plugin 'bad' (tn-bad 0.1) {reason}"]
    strict = tn(site, "plugins", TN_PLUGINS_STRICT="1")
    assert (strict.status, strict.out) == (1, "")
    assert strict.errors == [f"tn: error: plugin 'bad' (tn-bad 0.1) {reason}"]
    disabled = tn(site, "plugins", disable="bad,saturn")
    assert disabled.status == 0
    assert "bad  (tn-bad 0.1)  skipped disabled by TN_PLUGINS_DISABLE\n" in disabled.out
    assert "saturn  (tn-saturn 0.7)  skipped disabled by TN_PLUGINS_DISABLE\n" in disabled.out


def test_duplicates_stop_the_command(site: Path) -> None:
    write_distribution(site, "tn-uranus", {"uranus": PARTS}, {"uranus": "uranus"}, "0.1")
    done = tn(site, "plugins")
    assert done.status == 1
    (error,) = done.errors
    assert "'saturn' (tn-saturn 0.7)" in error
    assert "'uranus' (tn-uranus 0.1)" in error


@pytest.mark.parametrize(
    ("arguments", "status", "parts"),
    [
        (["orbti"], 1, ["no command is called 'orbti'", "did you mean orbit?", "known: ", "plugins"]),
        (["orbit", "--around", "Satrun"], 1, ["no prior is called 'Satrun'", "did you mean Saturn?"]),
        (["orbit", "--around=Satrun"], 1, ["no prior is called 'Satrun'", "did you mean Saturn?"]),
        (["orbit", "--around.name", "Satrun"], 1, ["no prior is called 'Satrun'", "did you mean Saturn?"]),
        # an inner name is checked before the outer one's module is imported
        (
            ["orbit", "--around", "Jupiter", "--around.prior", "Satrun"],
            1,
            ["no prior is called 'Satrun'", "did you mean Saturn?"],
        ),
        (["impute"], 1, ["'impute' comes with tn-eval", "python -m pip install tn-eval"]),
    ],
)
def test_unknown_names_are_one_line_and_import_nothing(
    site: Path, arguments: list[str], status: int, parts: list[str]
) -> None:
    done = tn(site, *arguments)
    assert (done.status, done.heavy, done.out) == (status, [], "")
    (error,) = done.errors
    assert error.startswith("tn: error: ")
    for part in parts:
        assert part in error


def test_help_of_a_command_imports_no_component(site: Path) -> None:
    done = tn(site, "orbit", "--help")
    assert (done.status, done.heavy, done.errors) == (0, [], [])
    assert "--around.name" in done.out
    assert "--times" in done.out
    assert "Jupiter, Saturn" in done.out


def test_a_command_runs(site: Path) -> None:
    done = tn(site, "orbit", "--around", "Saturn", "--around.rings", "3", "--times", "2")
    assert (done.status, done.errors) == (0, [])
    assert done.out == "orbit {'name': 'Saturn', 'rings': 3} 2\n"
