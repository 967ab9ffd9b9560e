"""Sums of sines: what they mean."""

import hashlib
import math
from typing import Any

import pytest
import torch

from tn_compvae import Sines


def test_shapes_and_labels() -> None:
    data = Sines(items=300)
    assert data.shape == (200,)
    assert list(data.labels) == ["part 1", "part 2", "part 3", "part 4"]
    assert all(values == [str(k) for k in range(1, 11)] for values in data.labels.values())
    split = data.split("train")
    assert split.x.abs().max() <= 1
    assert split.labels.dtype == torch.long
    assert (split.labels.min(), split.labels.max()) == (-1, 9)


def test_the_sets_are_those_of_always() -> None:
    labels = Sines(items=64).split("train").labels
    digest = hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "90ef788a9d54564f"


def test_a_lone_part_is_a_wave_of_its_frequency() -> None:
    split = Sines(parts=3, items=500).split("train")
    lone = (split.labels >= 0).sum(1) == 1
    x, frequency = split.x[lone], split.labels[lone, 0] + 1
    assert len(x) > 100
    # an odd function of a cosine of whole periods: only odd multiples of its frequency
    power = torch.fft.rfft(x.double()).abs()
    share = power.gather(1, frequency.unsqueeze(1)).squeeze(1) / power.norm(dim=1)
    assert (share > 0.85).all()
    # a small amplitude is nearly unchanged by the tanh, so C scales the whole
    assert (x.abs().max(1).values <= 1 / 3).all()


def test_size_grows_with_the_number_of_parts_and_unit_is_a_scale() -> None:
    split = Sines(parts=4, items=2000).split("train")
    count = (split.labels >= 0).sum(1)
    sizes = [split.x[count == k].std().item() for k in range(1, 5)]
    assert sizes == sorted(sizes)
    paper = Sines(parts=4, items=2000, unit=1).split("train")
    torch.testing.assert_close(paper.x, 4 * split.x)
    assert (paper.x.abs().max(1).values <= count).all()


def test_the_formula() -> None:
    # without amplitude noise to undo: the arguments of tanh are sums of cosines of the given frequencies only
    data = Sines(parts=5, frequencies=3, length=90, resolution=30, nonlinearity=0.5, unit=1, items=200)
    split = data.split("train")
    count = (split.labels >= 0).sum(1, keepdim=True).double()
    total = torch.atanh(split.x.double() / count) * count / 0.5
    t = torch.arange(90).double()
    basis = [f(2 * math.pi * (k + 1) / 30 * t) for k in range(3) for f in (torch.cos, torch.sin)]
    a = torch.stack(basis, 1)
    solution = torch.linalg.lstsq(a, total.T).solution
    torch.testing.assert_close(a @ solution, total.T, atol=1e-4, rtol=0)
    for k in range(3):
        absent = (split.labels != k).all(1)
        assert solution[2 * k : 2 * k + 2, absent].abs().max() < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frequencies": 0}, "frequencies must be at least 1"),
        ({"length": 0}, "length must be at least 1"),
        ({"resolution": 0}, "resolution must be positive"),
        ({"nonlinearity": 0.0}, "nonlinearity must be positive"),
        ({"unit": -1.0}, "unit must be positive"),
        ({"phase_deviation": -0.1}, "phase_deviation must not be negative"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sines(**arguments)
