"""Modes shown, counted by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from tn_eval.datasets import Digits
from tn_eval.modes import modes
from tn_eval.synthetic import GaussianGrid, TwoGaussians


class Given:
    """Draws what it is given, in order."""

    def __init__(self, x):
        self.x = x

    def sample(self, count, y=None):
        drawn, self.x = self.x[:count], self.x[count:]
        return drawn


def test_modes_of_a_grid_by_hand():
    data = GaussianGrid()
    # three modes at their centres, one within 3 deviations, one just beyond, one between all
    away = torch.tensor([2.9 * 0.005, 0.0])
    x = torch.stack(
        [*data.centres[:3], data.centres[7] + away, data.centres[9] + away * 3.1 / 2.9, torch.full((2,), 0.2)]
    )
    found = modes(Given(x), data, {}, samples=6, batch_size=4)
    assert (found["modes"].value, found["modes"].unit, found["modes"].items) == (4, "of 25", 6)
    assert found["high_quality"].value == pytest.approx(100 * 4 / 6)


def test_the_grid_itself_has_all_modes_and_the_quality_of_gaussians():
    data = GaussianGrid()
    x = data.split("test").x
    found = modes(Given(x), data, {}, samples=len(x))
    assert found["modes"].value == 25
    # the radius of a normal point exceeds 3 with probability exp(-9/2); Hoeffding, wrongly rejected 1 in 1e9 times
    assert abs(found["high_quality"].value / 100 - (1 - math.exp(-4.5))) < math.sqrt(math.log(2e9) / (2 * len(x)))


def test_combinations_of_labels(monkeypatch):
    """With a classifier that reads the labels off the image's first two values."""
    monkeypatch.setattr("tn_eval.modes.cached_classifier", lambda data, spec: None)
    monkeypatch.setattr("tn_eval.modes.predict", lambda classifier, x: x.flatten(1)[:, :2].long())

    def images(*labels):
        x = torch.zeros(len(labels), 1, 2, 2)
        x.view(len(labels), 4)[:, :2] = torch.tensor(labels)
        return x

    truth = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 2], [-1, 2]])
    data = SimpleNamespace(
        shape=(1, 2, 2),
        labels={"a": ("0", "1"), "b": ("0", "1", "2")},
        split=lambda name: SimpleNamespace(labels=truth),
    )
    found = modes(Given(images((0, 0), (0, 0), (0, 0), (1, 2))), data, {}, samples=4)
    assert (found["modes"].value, found["modes"].unit) == (2, "of 3")
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.25)
    assert found["mode_divergence"].value == pytest.approx(expected)
    # one that no training image has
    found = modes(Given(images((0, 0), (1, 0))), data, {}, samples=2)
    assert found["modes"].value == 1
    assert "mode_divergence" not in found
    data.split = lambda name: SimpleNamespace(labels=torch.tensor([[-1, 1]]))
    with pytest.raises(ValueError, match="no training image has all its labels"):
        modes(Given(images((0, 0))), data, {}, samples=1)


def test_training_digits_show_all_ten(tmp_path, monkeypatch):
    monkeypatch.setenv("TN_CACHE", str(tmp_path))
    data = Digits()
    x = data.split("train").x / 255
    found = modes(Given(x), data, {"name": "digits"}, samples=len(x))
    assert (found["modes"].value, found["modes"].unit) == (10, "of 10")
    assert 0 <= found["mode_divergence"].value < 0.01
    only = x[data.split("train").labels[:, 0] == 3]
    found = modes(Given(only), data, {"name": "digits"}, samples=len(only))
    assert found["mode_divergence"].value == pytest.approx(math.log(10), abs=0.15)


def test_data_without_modes():
    with pytest.raises(ValueError, match="modes are centres"):
        modes(Given(torch.zeros(2, 1)), TwoGaussians(), {}, samples=2)


def test_registered(host):
    assert host.get("metrics", "modes") is modes
