"""From the command line: the plugin is found, and a model with its prior and network is trained, sampled and used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tn_eval.datasets import Digits


def tn(*arguments: str | Path) -> str:
    """Runs ``tn`` in a process of its own; returns what it printed."""
    code = "import sys; from tn_core.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TN_PLUGINS_STRICT": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained for an epoch, with this plugin's prior and network."""
    out = tmp_path_factory.mktemp("runs") / "template"
    parts = ["--model.prior", "ClassGaussian", "--model.network", "ResidualMLP", "--model.network.width", "64"]
    data = ["--data", "digits", "--data.missing", "0.5", "--data.train_size", "300"]
    tn("fit", *parts, *data, "--features", "4", "--epochs", "1", "--out", out)
    return out


def test_the_plugin_is_listed() -> None:
    listed = tn("plugins")
    assert "tn-plugin-template  (tn-plugin-template 0.1.0)  ok\n" in listed
    assert "    priors: ClassGaussian\n" in listed
    assert "    networks: ResidualMLP\n" in listed


def test_samples_with_and_without_labels(run: Path, tmp_path: Path) -> None:
    assert (run / "samples.png").is_file()
    tn("sample", run, "--labels", "digit=3|4", "--count", "4", "--out", tmp_path / "threes.png")
    assert (tmp_path / "threes.png").stat().st_size > 100


def test_imputes_exactly_the_hidden_labels(run: Path) -> None:
    tn("impute", run)
    header, *lines = (run / "imputed.csv").read_text().splitlines()
    assert header == "item,label,value,probability"
    hidden = Digits(missing=0.5, train_size=300).split("train").hidden
    assert [int(line.partition(",")[0]) for line in lines] == hidden.flatten().nonzero().flatten().tolist()


def test_evaluates(run: Path) -> None:
    tn("evaluate", run, "--iwae_items", "20", "--condition_items", "100")
    measured = json.loads((run / "metrics.json").read_text())["metrics"]
    assert {"elbo", "iwae_100", "imputation_accuracy", "condition_accuracy"} <= measured.keys()
