"""Options by the line, by a file, and for targets that know nothing of us."""

from pathlib import Path

import yaml
from conftest import TRAIN, Tn


def test_a_config_printed_is_a_config_read(tn: Tn, tmp_path: Path) -> None:
    """What --print_config writes, --config reads; the line goes first; nothing runs while printing."""
    printed = tn("fit", *TRAIN, "--epochs", "3", "--seed", "7", "--out", tmp_path / "run", "--print_config")
    assert printed.returncode == 0, printed.stderr
    assert not (tmp_path / "run").exists()
    (tmp_path / "run.yaml").write_text(printed.stdout)
    done = tn("fit", "--config", tmp_path / "run.yaml", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    run = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert {**yaml.safe_load(printed.stdout), "epochs": 1} == run
    assert (run["seed"], run["model"]["prior"]["rank"], run["data"]["train_size"]) == (7, 3, 200)


def test_names_may_stand_alone_in_a_config(tn: Tn, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("model: VAE\ndata: {name: digits, missing: 0.5}\nepochs: 2\n")
    printed = tn("fit", "--config", tmp_path / "short.yaml", "--out", "x", "--print_config")
    assert printed.returncode == 0, printed.stderr
    found = yaml.safe_load(printed.stdout)
    assert (found["model"]["name"], found["data"]["missing"], found["epochs"]) == ("VAE", 0.5, 2)


def test_zuko_priors_as_they_are(tn: Tn, tmp_path: Path) -> None:
    """Their constructors take **keywords: only what was asked for is handed on."""
    common = ("--data", "digits", "--data.train_size", "200", "--features", "4", "--epochs", "1")
    for name, option in (("NSF", "bins"), ("GMM", "components")):
        out = tmp_path / name
        done = tn("fit", *common, "--model.prior", name, f"--model.prior.{option}", "5", "--out", out)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load((out / "config.yaml").read_text())["model"]["prior"][option] == 5
        assert tn("sample", out).returncode == 0
