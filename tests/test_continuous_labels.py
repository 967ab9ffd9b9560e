"""A continuous label beside a categorical one, either partly known: learned, asked for, imputed, by the command."""

import csv
import math
from pathlib import Path

import torch
from conftest import Tn

from tn_core.plugins import default_host
from tn_core.storage import labels_of, load_model


def test_images_as_bright_as_asked_for(tn: Tn, tmp_path: Path) -> None:
    out = tmp_path / "run"
    data = ("--data", "brightness", "--data.missing", "0.3", "--data.of", "digits", "--data.of.missing", "0.7")
    done = tn("fit", *data, "--epochs", "40", "--decay", "0.3", "--out", out)
    assert done.returncode == 0, done.stderr
    model, config = load_model(out, default_host())
    values = labels_of(config["labels"])["brightness"]
    torch.manual_seed(0)
    dark, bright = (
        model.sample(500, [None, torch.tensor(asked)]).mean((1, 2, 3)) for asked in (values.low, values.high)
    )
    error = math.sqrt((dark.var() + bright.var()) / 500)
    assert bright.mean() - dark.mean() > 5 * error  # without dependence: once in three million
    for command in (
        ("sample", out, "--labels", f"digit=3|5,brightness={values.low}"),
        ("sample", out, "--rows", "brightness", "--count", "4"),
        ("density", out, "--labels", f"brightness={values.high}"),
        ("hop", out, "--labels", "brightness=0.3"),
        ("impute", out),
        ("evaluate", out, "--metrics", "imputation,calibration"),
    ):
        done = tn(*command)
        assert done.returncode == 0, done.stderr
    with (out / "imputed.csv").open() as file:
        found = [line for line in csv.DictReader(file) if line["label"] == "brightness"]
    assert len(found) > 300
    assert all(values.low - 0.1 < float(line["value"]) < values.high + 0.1 for line in found)
    together = tn("impute", out, "--together")
    assert together.returncode == 0, together.stderr
    assert ",brightness," not in (out / "imputed.csv").read_text()


def test_what_does_not_fit(tn: Tn, tmp_path: Path) -> None:
    for model in ("CVAE", "TELBO", "JMVAE"):
        done = tn("fit", "--data", "brightness", "--model", model, "--out", tmp_path / "run")
        assert done.returncode == 1
        assert f"tn: error: {model}: label 1 is continuous; this model takes categorical labels only" in done.stderr
        assert not (tmp_path / "run").exists()
    done = tn("fit", "--data", "brightness", "--data.missing", "2", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "missing is a share from 0 to 1, not 2.0" in done.stderr
