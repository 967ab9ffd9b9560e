"""Sets of parts: what is told of them, errors, sizes, round trips."""

import math

import pytest
import torch

from tn_compvae import Parts, Schema
from tn_core.protocols import Interval

PLAIN = Schema(5)
SITES = Schema(3, [Interval(-1, 1), Interval(0, 10)])
NAN = math.nan


def test_what_labels_say() -> None:
    schema, places = Schema.of([5] * 4)
    assert (schema.categories, schema.numbers, schema.width, places) == (5, (), 1, 4)
    schema, places = Schema.of([3, Interval(-1, 1), Interval(0, 10)] * 2)
    assert (schema.categories, schema.numbers, schema.width, places) == (3, SITES.numbers, 3, 2)
    for wrong in ([], [5, 4], [Interval(0, 1)], [3, Interval(0, 1), 3], [0, 0], [3, Interval(0, 1), 3, Interval(0, 2)]):
        with pytest.raises(ValueError, match="sets of parts need for each part a label"):
            Schema.of(wrong)
    with pytest.raises(ValueError, match="at least one category"):
        Schema(0)


def test_sets_of_categories() -> None:
    y = torch.tensor([[2, 0, -1], [-1, -1, -1]])
    parts = PLAIN.read(y)
    assert torch.equal(parts.category, y)
    assert parts.present.tolist() == [[True, True, False], [False] * 3]
    assert parts.sizes.tolist() == [2, 0]
    assert torch.equal(PLAIN.write(parts), y)
    described = PLAIN.describe(parts, torch.float64)
    assert described.dtype == torch.float64
    assert described[0, :2].tolist() == [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]
    # one set for all
    assert PLAIN.read(torch.tensor([1, 2]), 3).category.tolist() == [[1, 2]] * 3
    assert PLAIN.read(torch.tensor([1, 2])).category.tolist() == [[1, 2]]


def test_sets_of_parts_with_numbers() -> None:
    y = torch.tensor([[2, 0.5, 10, 0, -1, 0], [1, 0, 5, NAN, NAN, NAN]])
    parts = SITES.read(y)
    assert parts.category.tolist() == [[2, 0], [1, -1]]
    assert parts.category.dtype == torch.long
    assert parts.numbers.tolist() == [[[0.5, 10], [-1, 0]], [[0, 5], [0, 0]]]
    torch.testing.assert_close(SITES.write(parts), y, equal_nan=True)
    torch.testing.assert_close(SITES.write(SITES.read(y.unflatten(1, (2, 3)))), y, equal_nan=True)
    expected = [[0, 0, 1, 0.5, 1], [1, 0, 0, -1, -1]]
    assert SITES.describe(parts, torch.float32)[0].tolist() == expected


@pytest.mark.parametrize(
    ("schema", "y", "message"),
    [
        (PLAIN, torch.zeros(2, 3), r"must be long \(2, places\)"),
        (PLAIN, torch.zeros(2, 3) > 0, r"must be long \(2, places\)"),
        (PLAIN, torch.zeros(3, 3).long(), r"must be long \(2, places\)"),
        (PLAIN, torch.zeros(2, 3, 1).long(), r"must be long \(2, places\)"),
        (PLAIN, torch.full((2, 1), 5), "a category 0..4, or -1 for no part"),
        (PLAIN, torch.full((2, 1), -2), "a category 0..4, or -1 for no part"),
        (SITES, torch.zeros(2, 3).long(), r"must be float \(2, places \* 3\)"),
        (SITES, torch.zeros(2, 4), r"must be float \(2, places \* 3\)"),
        (SITES, torch.tensor([0.5, 0, 0]), "a category 0..2 and finite numbers"),
        (SITES, torch.tensor([3.0, 0, 0]), "a category 0..2 and finite numbers"),
        (SITES, torch.tensor([1.0, NAN, 0]), "a category 0..2 and finite numbers"),
        (SITES, torch.tensor([1.0, math.inf, 0]), "a category 0..2 and finite numbers"),
        (PLAIN, None, "y, the sets of parts, is missing"),
    ],
)
def test_what_is_no_set(schema: Schema, y: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schema.read(y, 2)


def test_sets_drawn_have_every_size_and_category_equally_often() -> None:
    parts = SITES.read(SITES.draw(40_000, 4))
    # 4 deviations of a share of one in four, and of one in three of all parts
    sizes = torch.bincount(parts.sizes, minlength=5) / 40_000
    assert sizes[0] == 0
    assert (sizes[1:] - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 40_000)
    categories = torch.bincount(parts.category[parts.present]) / parts.sizes.sum()
    assert (categories - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 100_000)
    numbers = parts.numbers[parts.present]
    assert (numbers[:, 0].abs() <= 1).all()
    assert numbers[:, 1].min() < 0.1
    assert numbers[:, 1].max() > 9.9


def test_sets_chosen_label_by_label() -> None:
    mask = torch.tensor([True, False, True])
    y = SITES.choose([mask, torch.tensor(0.25), None, None, None, torch.tensor(3.0)], 200)
    parts: Parts = SITES.read(y)
    assert set(parts.category[:, 0].tolist()) == {0, 2}
    assert parts.present.tolist() == [[True, False]] * 200
    assert (parts.numbers[:, 0, 0] == 0.25).all()
    assert parts.numbers[:, 0, 1].std() > 1
    with pytest.raises(ValueError, match="3 labels a part, got 2"):
        SITES.choose([mask, None], 2)
