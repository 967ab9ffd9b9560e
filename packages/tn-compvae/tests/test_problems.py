"""The simulated problems: what all have in common, and the formulas of sites and load curves."""

import math
from typing import Any

import pytest
import torch

from tn_compvae import LoadCurves, Sines, Sites
from tn_compvae.load_curves import PROFILES
from tn_compvae.simulated import Hidden, Simulated
from tn_core import protocols
from tn_core.plugins import PluginHost
from tn_core.training import Drawn, EpochBatches, batches

PROBLEMS = {"load-curves": LoadCurves, "sines": Sines, "sites": Sites}
EACH = pytest.mark.parametrize("name", PROBLEMS)


def problem(name: str, **arguments: Any) -> Simulated:
    found: Simulated = PROBLEMS[name](**{"parts": 4, "items": 300, "test_items": 50, **arguments})
    return found


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@EACH
def test_it_is_a_data_set_with_and_without_end(name: str) -> None:
    data = problem(name)
    assert PluginHost(strict=True).get("datasets", name) is type(data)
    assert isinstance(data, protocols.Data)
    assert isinstance(data, protocols.Draws)
    assert isinstance(data, protocols.SimulatesParts)
    for part, items in (("train", 300), ("test", 50)):
        split = data.split(part)  # type: ignore[arg-type]
        assert split.x.shape == (items, *data.shape)
        assert split.x.dtype == torch.float32
        assert split.x.isfinite().all()
        assert split.labels.shape == (items, len(data.labels))
        assert not split.hidden.any()
        parts = data.schema.read(split.labels)
        assert parts.sizes.min() >= 1
        assert parts.sizes.max() == 4
        assert (parts.present[:, 1:] <= parts.present[:, :-1]).all()  # the parts come first
    assert torch.equal(data.split("train").x, problem(name).split("train").x)
    assert not torch.equal(data.split("train").x, problem(name, seed=1).split("train").x)
    x, y = data.draw(20, 0, generator())
    assert x.shape == (20, *data.shape)
    assert y.dtype == split.labels.dtype
    again = data.draw(20, 0, generator())
    assert torch.equal(again[0], x)
    with pytest.raises(ValueError, match="name must be 'train' or 'test'"):
        data.split("validation")  # type: ignore[arg-type]


@EACH
def test_both_kinds_of_training_data_are_of_one_distribution(name: str) -> None:
    data = problem(name, items=4000)
    split, (x, y) = data.split("train"), data.draw(4000, 0, generator())
    for one, two in ((split.x.flatten(1), x.flatten(1)), (split.x.flatten(1).square(), x.flatten(1).square())):
        error = (one.var(0) / 4000 + two.var(0) / 4000).sqrt()
        wrong = ((one.mean(0) - two.mean(0)).abs() > 3 * error).float().mean()
        assert wrong < 0.05  # 0.3 % of independent values; neighbours are not independent
    sizes = [torch.bincount(data.schema.read(labels).sizes, minlength=5) for labels in (split.labels, y)]
    assert (sizes[0] - sizes[1]).abs().max() < 5 * math.sqrt(2 * 4000 * 0.25 * 0.75)


@EACH
def test_the_number_of_parts_grows(name: str) -> None:
    data = problem(name, grow_every=100)
    for seen, most in ((0, 2), (99, 2), (100, 3), (250, 4), (10_000, 4)):
        _, y = data.draw(200, seen, generator())
        assert y.shape == (200, most * data.schema.width)
        assert data.schema.read(y).sizes.max() == most
    assert problem(name).draw(5, 0, generator())[1].shape[1] == 4 * data.schema.width
    assert data.schema.read(data.split("train").labels).sizes.max() == 4


@EACH
def test_sets_that_are_held_out(name: str) -> None:
    data = problem(name, held_out=3, items=2000)

    def sums(y: torch.Tensor) -> torch.Tensor:
        parts = data.schema.read(y)
        total = parts.category.clamp_min(0).sum(1)
        return total[parts.sizes > 1] % 3

    assert (sums(data.split("train").labels) > 0).all()
    assert (sums(data.draw(2000, 0, generator())[1]) > 0).all()
    assert (sums(data.split("test").labels) == 0).any()
    for size in (2, 4):
        y = data.unseen(100, size, generator())
        assert (data.schema.read(y).sizes == size).all()
        assert (sums(y) == 0).all()
    for wrong, size in ((data, 1), (problem(name), 2)):
        with pytest.raises(ValueError, match="unseen sets have 2 parts or more and need data with held_out"):
            wrong.unseen(10, size, generator())


@EACH
def test_wholes_do_not_depend_on_the_order_of_parts_and_empty_places_count_for_nothing(name: str) -> None:
    data = problem(name)
    y = data.split("test").labels
    hidden = data.hidden(y, generator())
    x = data.simulate(y, hidden)
    order = torch.tensor([2, 0, 3, 1])
    moved = y.unflatten(1, (4, -1))[:, order].flatten(1)
    torch.testing.assert_close(data.simulate(moved, Hidden(hidden.parts[:, order], hidden.whole)), x)
    empty = torch.full((1, 2 * data.schema.width), math.nan if y.is_floating_point() else -1).to(y)
    assert (data.simulate(empty, data.hidden(empty)) == 0).all()


@EACH
def test_parts_alone(name: str) -> None:
    data = problem(name)
    y = data.split("test").labels
    hidden = data.hidden(y, generator())
    alone = data.alone(y, hidden)
    assert alone.shape == (50, 4, *data.shape)
    second = y.unflatten(1, (4, -1))[:, 1]
    x = data.simulate(second, Hidden(hidden.parts[:, 1:2], hidden.whole))
    torch.testing.assert_close(alone[:, 1], x)
    present = data.schema.read(y).present
    assert (alone[~present] == 0).all()
    # load curves are the sum of their parts in one weather, the others are not
    difference = (alone.sum(1) - data.simulate(y, hidden)).abs().flatten(1).max(1).values
    more = present.sum(1) > 1
    assert (difference[~more] < 1e-5).all()
    assert (difference[more] < 1e-5).all() if name == "load-curves" else (difference[more] > 0.01).float().mean() > 0.9


def test_a_batch_without_end_is_fixed_by_seed_epoch_and_place() -> None:
    loader = batches(Drawn(Sines(items=40), 40), 16, seed=3)

    def epoch(number: int) -> list[torch.Tensor]:
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        return [x for x, _ in loader]

    first = epoch(0)
    assert [len(x) for x in first] == [16, 16, 8]
    second = epoch(1)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(epoch(0), first, strict=True))
    other = batches(Drawn(Sines(items=40), 40), 16, seed=4)
    assert not torch.equal(next(iter(other))[0], first[0])


def test_processes_share_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Sines(items=64)
    alone = [x for x, _ in batches(Drawn(data, 64), 16, seed=3)]
    for rank in range(2):
        monkeypatch.setattr(EpochBatches, "_share", lambda self, rank=rank: (rank, 2))
        found = [x for x, _ in batches(Drawn(data, 64), 16, seed=3)]
        assert len(found) == 2
        assert all(torch.equal(a, b) for a, b in zip(found, alone[rank::2], strict=True))


def test_what_is_drawn_grows_over_the_epochs() -> None:
    loader = batches(Drawn(Sines(grow_every=48), 32), 16, seed=0)
    widths = []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        widths += [y.shape[1] for _, y in loader]
    assert widths == [2, 2, 2, 3, 3, 3, 4, 4]


def test_sites_colour_what_is_near() -> None:
    data = Sites(parts=2, size=17)
    y = torch.tensor([0, -0.5, 0.0, 2, 0.5, 0.0])  # red on the left, blue on the right
    (x,) = data.simulate(y, Hidden(torch.full((1, 2, 1), 0.5), torch.zeros(1, 0)))
    assert x.shape == (3, 17, 17)
    middle = x[:, 8]
    # weights are logistic in the difference of the squared distances, 2 x here, times the intensity, 7.5
    across = torch.linspace(-1, 1, 17)
    torch.testing.assert_close(middle[0], torch.sigmoid(-7.5 * 2 * across) ** (1 / 2.4))
    torch.testing.assert_close(middle[2], torch.sigmoid(7.5 * 2 * across) ** (1 / 2.4))
    assert (x[1] == 0).all()
    lone = data.simulate(torch.tensor([3.0, 0, 0]), Hidden(torch.rand(1, 1, 1), torch.zeros(1, 0)))
    torch.testing.assert_close(lone, torch.ones(1, 3, 17, 17))


def test_load_curves_follow_the_weather() -> None:
    data = LoadCurves(parts=1)
    names = list(PROFILES)

    def day(
        name: str, level: float = 0.5, shift: float = 0.5, watch: float = 0.9, cold: float = 0.5, match: float = 0.9
    ) -> Any:
        hidden = Hidden(torch.tensor([[[level, shift, watch]]]), torch.tensor([[cold, match]]))
        return data.simulate(torch.tensor([[names.index(name)]]), hidden)[0]

    mild, cold = day("electric heating", cold=0.9), day("electric heating", cold=0.1)
    assert cold.mean() > mild.mean() + 0.5
    assert day("gas heating", cold=0.1).mean() < day("gas heating", cold=0.9).mean() + 0.2
    # a match shows in the evening of those who watch
    difference = day("retired", watch=0.1, match=0.1) - day("retired", watch=0.9, match=0.1)
    assert difference.argmax() == 43
    assert difference.max() == pytest.approx(0.4)
    assert torch.equal(day("retired", watch=0.9, match=0.1), day("retired", watch=0.1, match=0.9))
    # a car is charged at night; a level scales the rest
    assert (day("electric car") - 2 * day("gas heating")).argmax() in (1, 2, 3)
    torch.testing.assert_close(day("gas heating", level=0.8413447), day("gas heating") * math.exp(0.35))
    # the mean of a household's night, by hand
    profile = PROFILES["gas heating"]
    expected = profile.base + profile.heating * math.log1p(math.exp(8)) / 10 * (1 + 0.3 * math.cos(-3 * math.pi / 12))
    assert day("gas heating")[6].item() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sites(size=0), "size must be at least 1"),
        (lambda: Sites(parts=0), "parts must be at least 1"),
        (lambda: Sites(grow_every=-1), "grow_every must not be negative"),
        (lambda: Sites(held_out=1), "held_out must be 0 or from 2 to the number of categories, 5"),
        (lambda: Sites(held_out=6), "held_out must be 0 or from 2 to the number of categories, 5"),
        (lambda: LoadCurves(unit=0.0), "unit must be positive"),
        (lambda: LoadCurves(items=0), "items must be at least 1"),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@EACH
def test_sums_are_of_parts_drawn_independently(name: str) -> None:
    data = problem(name)
    y = data.sets(1, 3, generator()).expand(3000, -1)
    sums, alone = data.sums(y, generator(1)), data.wholes(y[:, : data.schema.width], generator(2))
    assert data.schema.read(data.sets(5, 30, generator())).sizes.tolist() == [30] * 5
    parts = [data.wholes(y.unflatten(1, (3, -1))[:, k], generator(k)) for k in range(3)]
    expected = torch.stack(parts).var(1).sum(0)
    assert ((sums.var(0) - expected).abs() <= 0.25 * expected + 1e-6).float().mean() > 0.99
    torch.testing.assert_close(data.sums(y[:, : data.schema.width], generator(2)), alone)


def test_households_in_one_weather_vary_together() -> None:
    data = LoadCurves(parts=8)
    y = torch.zeros(4000, 8, dtype=torch.long)
    energy, apart = data.wholes(y, generator()).mean(1), data.sums(y, generator()).mean(1)
    assert (energy.mean() - apart.mean()).abs() < 5 * energy.std() / math.sqrt(4000)
    assert energy.std() > 1.4 * apart.std()
