"""Stacked images: which images they are made of, labels, hiding, errors."""

import pytest
import torch

from tn_core.errors import UserError
from tn_core.protocols import Data
from tn_eval.brightness import Brightness
from tn_eval.datasets import Digits
from tn_eval.stacked import Stacked
from tn_eval.synthetic import TwoGaussians


@pytest.mark.parametrize("name", ["train", "test"])
def test_each_channel_is_an_image_with_its_label(name):
    digits, data = Digits(), Stacked(of=Digits())
    assert isinstance(data, Data)
    assert data.shape == (3, 8, 8)
    assert list(data.labels) == ["red", "green", "blue"]
    assert data.labels["green"] == digits.labels["digit"]
    plain, part = digits.split(name), data.split(name)
    assert part.x.shape == (len(plain), 3, 8, 8)
    known = {(image.numpy().tobytes(), int(label)) for image, label in zip(plain.x[:, 0], plain.labels, strict=True)}
    for images, labels in zip(part.x, part.labels, strict=True):
        for image, label in zip(images, labels, strict=True):
            assert (image.numpy().tobytes(), int(label)) in known
    # channels are drawn apart: two labels agree in a tenth of the items (Hoeffding, wrongly rejected 1 in 1e9 times)
    agree = (part.labels[:, 0] == part.labels[:, 1]).double().mean()
    assert abs(agree - 0.1) < (21.4 / (2 * len(part))) ** 0.5


def test_a_seed_fixes_the_draws_and_hides_labels_on_their_own():
    train = Stacked(of=Digits(), missing=0.5).split("train")
    again = Stacked(of=Digits(missing=0.9)).split("train")
    assert torch.equal(train.x, again.x)
    assert not again.hidden.any()
    assert train.x[0, 0].flatten()[:24].tolist() == [
        0,
        0,
        48,
        223,
        207,
        191,
        223,
        0,
        0,
        0,
        175,
        223,
        191,
        239,
        143,
        0,
        0,
        0,
        255,
        80,
        48,
        255,
        32,
        0,
    ]
    assert not torch.equal(train.x[:20], Stacked(of=Digits(), seed=1).split("train").x[:20])
    assert abs(train.hidden.double().mean() - 0.5) < 0.05  # 4,311 draws: further off with probability 1e-9
    assert not (train.hidden & ~Stacked(of=Digits(), missing=0.7).split("train").hidden).any()
    assert not Stacked(of=Digits(), missing=0.5).split("test").hidden.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"missing": 1.5}, "missing"),
        ({"seed": -1}, "seed"),
        ({"of": TwoGaussians()}, r"TwoGaussians has shape \(1,\)"),
        ({"of": Brightness(of=Digits())}, "and 2 labels"),
        ({"of": Stacked(of=Digits())}, r"shape \(3, 8, 8\) and 3 labels"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Stacked(**{"of": Digits(), **arguments})
