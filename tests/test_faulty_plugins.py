"""A stranger's faulty plugins do not keep any command from working."""

from pathlib import Path

import pytest
from conftest import TRAIN, Tn

MODULES = {
    "loads": "raise RuntimeError('broken\\nin two lines')",
    "exits": "import sys\nsys.exit('go away')",
    "registers": "from tn_core import hookimpl\n@hookimpl\ndef priors(nonsense):\n    return {}\n",
    "called": "from tn_core import hookimpl\n@hookimpl\ndef commands():\n    raise KeyError('nobody home')\n",
    "returns": "from tn_core import hookimpl\n@hookimpl\ndef priors():\n    return ['TRIP']\n",
}
STAGES = {
    "loads": "while loading: RuntimeError: broken in two lines",
    "exits": "while loading: SystemExit: go away",
    "registers": "while registering: PluginValidationError: ",
    "called": "when called: KeyError: 'nobody home'",
    "returns": "when called: TypeError: ",
}


@pytest.fixture
def site(tmp_path: Path) -> str:
    """A folder for PYTHONPATH with five installed plugins, each with a fault of its own."""
    folder = tmp_path / "site"
    for name, source in MODULES.items():
        info = folder / f"stranger_{name}-2.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"stranger_{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[tn]\n{name} = stranger_{name}\n")
    return str(folder)


def check_warnings(stderr: str, names: tuple[str, ...] = tuple(MODULES)) -> None:
    """Every faulty plugin is named by exactly one line, a warning; there is no other warning."""
    assert "Traceback" not in stderr
    for name in names:
        (line,) = [line for line in stderr.splitlines() if f"stranger-{name}" in line]
        assert line.startswith(f"tn: warning: plugin '{name}' (stranger-{name} 2.0) skipped {STAGES[name]}")
    assert stderr.count("tn: warning:") == len(names)


def test_plugins_lists_them_with_the_reason(tn: Tn, site: str) -> None:
    done = tn("plugins", PYTHONPATH=site)
    assert done.returncode == 0
    check_warnings(done.stderr)
    for name, stage in STAGES.items():
        assert f"{name}  (stranger-{name} 2.0)  skipped {stage}" in done.stdout
    for name in ("tn-core", "tn-priors", "tn-vae", "tn-gan", "tn-compvae", "tn-eval", "tn-plugin-template"):
        assert f"{name}  ({name} 0.1.0)  ok\n" in done.stdout


def test_fit_works(tn: Tn, site: str, tmp_path: Path) -> None:
    done = tn("fit", *TRAIN, "--epochs", "1", "--out", tmp_path / "out", PYTHONPATH=site)
    assert done.returncode == 0
    check_warnings(done.stderr)
    assert (tmp_path / "out" / "config.yaml").is_file()
    assert (tmp_path / "out" / "samples.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["sample", "--labels", "digit=3", "--count", "3"], "samples.png"),
        (["impute", "--split", "test"], "imputed.csv"),
        (["evaluate", "--metrics", '["imputation"]'], "metrics.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_one_does_with_a_model_works(tn: Tn, site: str, run: Path, arguments: list[str], file: str) -> None:
    (run / file).unlink(missing_ok=True)
    done = tn(arguments[0], run, *arguments[1:], PYTHONPATH=site)
    assert done.returncode == 0
    check_warnings(done.stderr)
    assert (run / file).is_file()


def test_strict_makes_it_an_error(tn: Tn, site: str) -> None:
    done = tn("plugins", PYTHONPATH=site, TN_PLUGINS_STRICT="1", TN_PLUGINS_DISABLE="exits,registers,called,returns")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"tn: error: plugin 'loads' (stranger-loads 2.0) skipped {STAGES['loads']}\n"


@pytest.mark.parametrize("called", ["called", "returns", "registers"])
def test_strict_at_the_later_stages(tn: Tn, site: str, called: str) -> None:
    others = ",".join(name for name in MODULES if name != called)
    done = tn("plugins", PYTHONPATH=site, TN_PLUGINS_STRICT="1", TN_PLUGINS_DISABLE=others)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tn: error: plugin '{called}' (stranger-{called} 2.0) skipped {STAGES[called]}")


def test_disabled_plugins_are_left_alone(tn: Tn, site: str) -> None:
    some = tn("plugins", PYTHONPATH=site, TN_PLUGINS_DISABLE="exits,stranger-called")
    assert some.returncode == 0
    check_warnings(some.stderr, ("loads", "registers", "returns"))
    assert "exits  (stranger-exits 2.0)  skipped disabled by TN_PLUGINS_DISABLE\n" in some.stdout
    every = tn("plugins", PYTHONPATH=site, TN_PLUGINS_DISABLE="*", TN_PLUGINS_STRICT="1")
    assert (every.returncode, every.stderr) == (0, "")
    for name in (*MODULES, "tn-plugin-template"):
        (line,) = [line for line in every.stdout.splitlines() if line.startswith(f"{name}  (")]
        assert line.endswith("skipped disabled by TN_PLUGINS_DISABLE")
    assert "tn-vae  (tn-vae 0.1.0)  ok\n" in every.stdout
