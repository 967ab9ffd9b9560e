"""The data set: what it holds, that a seed fixes it, and what it means."""

import hashlib
import math
from typing import Any

import pytest
import torch

from tn_compvae import Sines
from tn_core import protocols
from tn_core.plugins import PluginHost


def test_it_is_a_data_set() -> None:
    data = Sines(items=300, test_items=50)
    assert isinstance(data, protocols.Data)
    assert data.shape == (200,)
    assert list(data.labels) == ["part 1", "part 2", "part 3", "part 4"]
    assert all(list(values) == [str(k) for k in range(1, 11)] for values in data.labels.values())
    for name, items in (("train", 300), ("test", 50)):
        split = data.split(name)  # type: ignore[arg-type]
        assert len(split) == items
        assert split.x.shape == (items, 200)
        assert split.x.dtype == torch.float32
        assert split.x.abs().max() <= 1
        assert split.labels.shape == split.hidden.shape == (items, 4)
        assert split.labels.dtype == torch.long
        assert not split.hidden.any()
        assert split.labels.min() == -1
        assert split.labels.max() == 9
        # parts first, at least one
        present = split.labels >= 0
        assert present[:, 0].all()
        assert (present[:, 1:] <= present[:, :-1]).all()
    assert PluginHost(strict=True).get("datasets", "sines") is Sines


def test_a_seed_fixes_it() -> None:
    one, two = Sines(items=20, test_items=20), Sines(items=20, test_items=20)
    for name in ("train", "test"):
        assert torch.equal(one.split(name).x, two.split(name).x)  # type: ignore[arg-type]
        assert torch.equal(one.split(name).labels, two.split(name).labels)  # type: ignore[arg-type]
    assert not torch.equal(one.split("train").x, one.split("test").x)
    assert not torch.equal(one.split("train").x, Sines(items=20, seed=1).split("train").x)
    # and not the order in which things were asked for
    torch.manual_seed(9)
    assert torch.equal(two.split("train").x, one.split("train").x)


def test_the_sets_are_those_of_always() -> None:
    labels = Sines(items=64).split("train").labels
    digest = hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "9742b39a80423ab2"


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
        ({"parts": 0}, "parts must be at least 1"),
        ({"frequencies": 0}, "frequencies must be at least 1"),
        ({"length": 0}, "length must be at least 1"),
        ({"items": 0}, "items must be at least 1"),
        ({"test_items": 0}, "test_items must be at least 1"),
        ({"resolution": 0}, "resolution must be positive"),
        ({"nonlinearity": 0.0}, "nonlinearity must be positive"),
        ({"unit": -1.0}, "unit must be positive"),
        ({"phase_deviation": -0.1}, "phase_deviation must not be negative"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sines(**arguments)


def test_an_unknown_split() -> None:
    with pytest.raises(ValueError, match="name must be 'train' or 'test'"):
        Sines().split("validation")  # type: ignore[arg-type]
