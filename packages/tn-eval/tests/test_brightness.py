"""A continuous label, from the data set to samples, imputation, metrics and pictures."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tn_core import hookimpl
from tn_core.components import build
from tn_core.errors import UserError
from tn_core.plugins import PluginHost
from tn_core.protocols import Interval, to_float
from tn_core.storage import describe, labels_of, save_model
from tn_eval import plugin
from tn_eval.brightness import Brightness
from tn_eval.commands import evaluate, impute, parse_labels, sample
from tn_eval.datasets import Digits
from tn_eval.views import _posterior_means


def test_a_column_more():
    data, plain = Brightness(of=Digits(missing=0.5), missing=0.25), Digits(missing=0.5)
    for name in ("train", "test"):
        part, without = data.split(name), plain.split(name)
        assert torch.equal(part.x, without.x)
        assert torch.equal(part.labels[:, :1], without.labels.float())
        assert torch.allclose(part.labels[:, 1], to_float(part.x).mean((1, 2, 3)))
        assert torch.equal(part.hidden[:, :1], without.hidden)
        assert part.observed.isnan().equal(part.hidden)
        assert torch.equal(part.observed[~part.hidden], part.labels[~part.hidden])
    train = data.split("train")
    hidden = train.hidden[:, 1]
    assert abs(hidden.double().mean() - 0.25) < 0.1  # further off with probability 1e-11 (Hoeffding, 1437 draws)
    assert not data.split("test").hidden.any()
    assert not (hidden & ~Brightness(of=plain, missing=0.5).split("train").hidden[:, 1]).any()
    assert data.labels["digit"] == plain.labels["digit"]
    values, found = data.labels["brightness"], train.labels[:, 1]
    assert 0.985 < ((found >= values.low) & (found <= values.high)).double().mean() < 0.995


def test_labels_unknown_to_the_data_set_itself_stay_unknown():
    class Lacking(Digits):
        """Without some true labels."""

        def read(self, name):
            x, y = super().read(name)
            return x, np.where(np.arange(len(y)) % 2, y, -1)

    labels = Brightness(of=Lacking()).split("train").labels
    assert torch.equal(labels[:, 0].isnan(), torch.arange(len(labels)) % 2 == 0)


@pytest.mark.parametrize("arguments", [{"missing": 1.5}, {"missing": float("nan")}, {"missing_seed": -1}])
def test_bad_arguments(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        Brightness(of=Digits(), **arguments)


def test_read_from_the_command_line():
    known = {"digit": ["0", "1"], "brightness": Interval(0.1, 0.5)}
    assert parse_labels("digit=1,brightness=0.25", known) == {"digit": [1], "brightness": 0.25}
    for wrong in ("bright", "nan", "inf", "0.1|0.2", "!0.1"):
        with pytest.raises(UserError, match="the label 'brightness' is continuous: it takes a number, got"):
            parse_labels(f"brightness={wrong}", known)


class Knows(torch.nn.Module):
    """Samples are grey images of the brightness asked for; what it imputes is right but for a constant."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.weight = torch.nn.Parameter(torch.ones(1))

    def sample(self, count, y=None):
        """Black if nothing is asked for."""
        wanted = torch.tensor(0.0) if y is None or y[1] is None else y[1]
        assert wanted.shape in ((), (count,))
        return wanted.expand(count).view(-1, 1, 1, 1).expand(count, *self.shape)

    def impute(self, x, y=None):
        """Every digit is a three."""
        mean = x.flatten(1).mean(1) + 0.125
        return [torch.eye(10)[torch.full((len(x),), 3)], torch.stack([mean, torch.full_like(mean, 0.5)], 1)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A model's folder and its data."""
    host = PluginHost([], strict=True)
    host.register(plugin)
    host.register(SimpleNamespace(models=hookimpl(lambda: {"Knows": Knows})))
    monkeypatch.setattr("tn_eval.commands.default_host", lambda: host)
    spec = {"name": "brightness", "of": {"name": "digits", "missing": 0.5}, "missing": 0.5}
    data = build(spec, "datasets", host, root="data")
    config = describe({"name": "Knows"}, spec, data.shape, data.labels, features=4)
    assert labels_of(config["labels"]) == {"digit": list("0123456789"), "brightness": data.labels["brightness"]}
    save_model(Knows(data.shape), config, tmp_path / "run")
    return tmp_path / "run", data


def test_samples_of_a_brightness(run):
    folder, data = run

    def seen():
        return np.asarray(Image.open(folder / "samples.png").convert("L"))

    sample(str(folder), labels="brightness=0.4", count=2)
    assert (seen() == 102).any()
    sample(str(folder), rows="brightness", count=2)
    values = data.labels["brightness"]
    for k in range(10):
        grey = 255 * (values.low + (values.high - values.low) * k / 9)
        assert (abs(seen() - grey) <= 1).any()


def test_imputed_and_measured(run):
    folder, data = run
    impute(str(folder))
    with (folder / "imputed.csv").open() as file:
        lines = list(csv.DictReader(file))
    train = data.split("train")
    assert len(lines) == train.hidden.sum()
    assert {line["value"] for line in lines if line["label"] == "digit"} == {"3"}
    bright = [line for line in lines if line["label"] == "brightness"]
    assert len(bright) == train.hidden[:, 1].sum()
    for line in bright:
        assert abs(float(line["value"]) - train.labels[int(line["item"]), 1] - 0.125) < 1e-4
        assert line["probability"] == "0.5000"
    evaluate(str(folder), metrics=["imputation", "calibration"])
    found = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert abs(found["imputation_error_brightness"]["value"] - 0.125) < 1e-6
    assert found["imputation_error_brightness"]["better"] == "lower"
    threes = 100 * (data.split("test").labels[:, 0] == 3).double().mean()
    assert abs(found["imputation_accuracy"]["value"] - threes) < 1e-6
    assert found["brier_score"]["items"] == 360
    assert "brier_score_brightness" not in found


def test_test_items_near_a_value_are_shown():
    class Encoder:
        """The brightness is the latent."""

        def encode(self, x):
            return x.flatten(1).mean(1, keepdim=True)

        def decode(self, z):
            return z

    values = Brightness(of=Digits()).labels["brightness"]
    middle = (values.low + values.high) / 2
    config = {"data": {"name": "brightness", "of": {"name": "digits"}}}
    means = _posterior_means(Encoder(), config, {"brightness": middle}, 1000, None)
    assert 10 < len(means) < 360
    assert ((means - middle).abs() <= (values.high - values.low) / 20 + 1e-6).all()
