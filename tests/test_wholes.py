"""Wholes made of sets of parts: the metrics know a model that is right from one that is not; the command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import Tn
from PIL import Image
from torch import Tensor

from tn_compvae import LoadCurves, Sines, Sites
from tn_compvae.simulated import Hidden, Simulated
from tn_core.errors import UserError
from tn_core.protocols import Bounds, Composes, Samples, Simulates
from tn_eval.counts import Counts
from tn_eval.wholes import bags, recomposition, sizes


class Known(NamedTuple):
    """Wholes as the oracle has them."""

    y: Tensor
    hidden: Hidden


class Oracle:
    """A model that knows the simulator, and can tell by a whole what is hidden of it."""

    def __init__(self, data: Simulated) -> None:
        self.data, self.seen = data, []  # type: ignore[var-annotated]

    def watch(self) -> None:
        """Remembers what the simulator computes."""
        simulate = self.data.simulate

        def remembering(y: Tensor, hidden: Hidden) -> Tensor:
            x = simulate(y, hidden)
            self.seen.append((x, Known(y, hidden)))
            return x

        self.data.simulate = remembering  # type: ignore[method-assign]

    def compose(self, y: Tensor, count: int | None = None) -> Known:
        """Draws what is hidden."""
        return Known(y, self.data.hidden(y))

    def extract(self, x: Tensor, y: Tensor) -> Known:
        """Looks the wholes up."""
        for wholes, known in reversed(self.seen):
            if wholes.shape == x.shape and torch.equal(wholes, x):
                return Known(known.y, known.hidden)
        lone = [(w, k) for w, k in self.seen if len(w) % len(x) == 0 and len(w) > len(x)]
        for wholes, known in reversed(lone):  # parts alone, computed for all places of a batch at once
            places = len(wholes) // len(x)
            for place in range(places):
                if torch.equal(wholes[place::places], x):
                    return Known(known.y[place::places], Hidden(*(h[place::places] for h in known.hidden)))
        raise AssertionError("an unknown whole")

    def add(self, composition: Known, parts: Known) -> Known:
        """Takes parts along."""
        both = torch.cat([composition.hidden.parts, parts.hidden.parts], 1)
        return Known(torch.cat([composition.y, parts.y], 1), Hidden(both, composition.hidden.whole))

    def remove(self, composition: Known, places: Sequence[int]) -> Known:
        """Leaves parts away."""
        kept = [k for k in range(composition.hidden.parts.shape[1]) if k not in places]
        y = composition.y.unflatten(1, (-1, self.data.schema.width))[:, kept].flatten(1)
        return Known(y, Hidden(composition.hidden.parts[:, kept], composition.hidden.whole))

    def decode(self, composition: Known) -> Tensor:
        """What the simulator says."""
        return type(self.data).simulate(self.data, *composition)

    def sample(self, count: int, y: Tensor | None = None) -> Tensor:
        """Draws from the simulator."""
        assert y is not None
        return self.data.wholes(y.expand(count, -1))

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The number of parts, three nats each."""
        return 3.0 * self.data.schema.read(y).sizes

    def iwae(self, x: Tensor, y: Tensor | None = None, samples: int = 100) -> Tensor:
        """The same."""
        return self.elbo(x, y)


class Additive(Oracle):
    """Draws its wholes as sums of independent parts."""

    def sample(self, count: int, y: Tensor | None = None) -> Tensor:
        """As one would without a model."""
        assert y is not None
        return self.data.sums(y.expand(count, -1))


@pytest.mark.parametrize("kind", [Sines, Sites, LoadCurves])
def test_a_model_that_is_right_recomposes_without_error(kind: Any) -> None:
    data = kind(parts=4)
    model = Oracle(data)
    assert isinstance(model, Composes)
    model.watch()
    found = recomposition(model, data, items=60)
    assert found.keys() == {
        f"{name}{end}" for name in ("removed", "added", "exchanged") for end in ("", "_difference", "_sum")
    }
    for name in ("removed", "added", "exchanged"):
        assert found[name].value < 1e-6
        assert found[name].items == 60
        if kind is LoadCurves:  # the whole is the sum of its parts in one weather
            assert found[f"{name}_sum"].value < (1e-6 if name != "exchanged" else 1)
        else:
            assert found[f"{name}_difference"].value > 0.02
            assert found[f"{name}_sum"].value > 0.02


@pytest.mark.parametrize("kind", [Sines, LoadCurves])
@pytest.mark.parametrize("held_out", [0, 3])
def test_bags_tell_the_simulator_from_a_sum_of_independent_parts(kind: Any, held_out: int) -> None:
    data = kind(parts=6, held_out=held_out)
    torch.manual_seed(0)
    assert isinstance(Oracle(data), Samples)
    right, wrong = (bags(model, data, count=10, samples=300) for model in (Oracle(data), Additive(data)))
    assert abs(right["bags_mmd"].value) < 0.002
    assert abs(right["bags_mmd_simulator"].value) < 0.002
    assert abs(right["bags_spread"].value - 1) < 0.05
    assert right["bags_mmd_sum"].value > 0.005
    assert wrong["bags_mmd"].value > 0.005
    if kind is LoadCurves:  # households in weathers of their own vary too little
        assert wrong["bags_spread"].value < 0.9


def test_bags_pass_over_sets_whose_wholes_are_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Sites(parts=2, size=4)  # one set in five is of one colour
    torch.manual_seed(0)
    found = bags(Oracle(data), data, count=20, samples=300)
    assert abs(found["bags_mmd"].value) < 0.01
    assert abs(found["bags_spread"].value - 1) < 0.1
    monkeypatch.setattr(data, "simulate", lambda y, hidden: torch.zeros(len(y), *data.shape))
    with pytest.raises(ValueError, match="vary"):
        bags(Oracle(data), data, count=1, samples=10)


def test_bounds_by_the_number_of_parts() -> None:
    data = Sines(parts=3)
    model = Oracle(data)
    assert isinstance(model, Bounds)
    found = sizes(model, data, items=10, most=5)
    assert list(found) == [f"elbo_per_part_{k}" for k in range(1, 6)]
    assert all(value.value == 3 for value in found.values())


def test_counts_are_the_same_wholes() -> None:
    data = Sines(parts=4, frequencies=3, items=50, held_out=2)
    counts = Counts(of=data)
    assert isinstance(counts, Simulates)
    assert next(iter(counts.labels.items())) == ("number of 1", ["0", "1", "2", "3", "4"])
    one, two = data.split("train"), counts.split("train")
    assert torch.equal(one.x, two.x)
    expected = torch.stack([(one.labels == k).sum(1) for k in range(3)], 1)
    assert torch.equal(two.labels, expected)
    x, y = counts.draw(20, 0, torch.Generator().manual_seed(0))
    assert torch.equal(x, data.draw(20, 0, torch.Generator().manual_seed(0))[0])
    assert y.shape == (20, 3)
    unseen = counts.unseen(20, 3, torch.Generator())
    assert (unseen.sum(1) == 3).all()
    assert ((unseen @ torch.arange(3)) % 2 == 0).all()
    # wholes of counts have the mean power of wholes of the sets
    y = torch.tensor([[2, 0, 1]]).expand(2000, -1)
    power = [
        source.wholes(sets, torch.Generator().manual_seed(k)).square().mean(1)
        for k, (source, sets) in enumerate(((counts, y), (data, torch.tensor([[0, 0, 2]]).expand(2000, -1))))
    ]
    error = (power[0].var() / 2000 + power[1].var() / 2000).sqrt()
    assert (power[0].mean() - power[1].mean()).abs() < 5 * error
    assert counts.sums(y).shape == (2000, 200)
    with pytest.raises(UserError, match="whose parts have a category each, not Sites"):
        Counts(of=Sites())


@pytest.fixture(scope="module")
def curves(tn: Tn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of curves."""
    out = tmp_path_factory.mktemp("wholes") / "curves"
    data = ("--data", "load-curves", "--data.parts", "3", "--data.items", "256", "--data.held_out", "3")
    sizes = ("--features", "4", "--model.network.hidden", "8", "--model.aggregation", "Mean")
    done = tn("fit", "--model", "CompVAE", *data, *sizes, "--epochs", "2", "--validation", "64", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "validation_elbo" in done.stderr
    return out


def test_a_model_of_curves_by_the_command_line(tn: Tn, curves: Path) -> None:
    for arguments, file in (
        (("recompose", curves, "--parts", "3"), "recompose.png"),
        (("bands", curves, "--samples", "50"), "bands.png"),
        (("bands", curves, "--labels", "part 1=retired,part 2=!retired", "--samples", "50"), "bands.png"),
        (("curves", curves, "--unit", "bits", "--scale", "symlog", "--names", "elbo,divergence_parts"), "curves.png"),
    ):
        done = tn(*arguments)
        assert done.returncode == 0, done.stderr
        with Image.open(curves / file) as picture:
            assert picture.format == "PNG"
        (curves / file).unlink()
    done = tn("evaluate", curves, "--metrics", "elbo,iwae,bags,recomposition,sizes", "--iwae_items", "20")
    assert done.returncode == 0, done.stderr
    found = json.loads((curves / "metrics.json").read_text())["metrics"]
    assert {"elbo", "iwae_100", "bags_mmd", "bags_mmd_sum", "removed", "elbo_per_part_30"} <= found.keys()
    assert found["elbo"]["items"] == 1024
    assert found["iwae_100"]["items"] == 20
    for arguments, message in (
        (("curves", curves, "--names", "fid"), "has no 'fid'; it has"),
        (("curves", curves.parent), "cannot read"),
        (("bands", curves, "--low", "0.5"), "low must be between 0 and 0.5"),
        (("bands", curves, "--labels", "part 9=retired"), "cannot read 'part 9=retired'"),
    ):
        done = tn(*arguments)
        assert done.returncode == 1
        assert message in done.stderr


def test_a_model_of_images_and_its_data_by_the_command_line(tn: Tn, tmp_path: Path) -> None:
    out = tmp_path / "sites"
    data = ("--data", "sites", "--data.parts", "2", "--data.size", "8", "--data.items", "256")
    sizes = ("--model.network", "PartsConv", "--model.network.channels", "[4,8]", "--model.network.hidden", "8")
    done = tn("fit", "--model", "CompVAE", *data, *sizes, "--features", "4", "--epochs", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    for arguments, file, size in (
        (("recompose", out, "--parts", "3", "--count", "2"), out / "recompose.png", (3 * 34 + 2, 3 * 34 + 2)),
        (("wholes", *data, "--count", "3", "--out", tmp_path / "w.png"), tmp_path / "w.png", (3 * 34 + 2, 2 * 34 + 2)),
        (("sample", out, "--labels", "part 1=red,part 1 x=0.5", "--count", "2"), out / "samples.png", (70, 36)),
    ):
        done = tn(*arguments)
        assert done.returncode == 0, done.stderr
        with Image.open(file) as picture:
            assert picture.size == size
    done = tn("bands", out)
    assert done.returncode == 1
    assert "tn bands needs a model of curves" in done.stderr
    done = tn("wholes", "--data", "sines", "--out", tmp_path / "sines.png")
    assert done.returncode == 0, done.stderr
    done = tn("wholes", "--data", "digits", "--out", tmp_path / "digits.png")
    assert done.returncode == 1
    assert "wholes made of parts from a simulator" in done.stderr


def test_a_conditional_model_on_counts_by_the_command_line(tn: Tn, tmp_path: Path) -> None:
    out = tmp_path / "counts"
    data = ("--data", "counts", "--data.of", "load-curves", "--data.of.parts", "2", "--data.of.items", "256")
    model = (
        "--model",
        "CVAE",
        "--model.network",
        "MLP",
        "--model.classifier",
        "MLP",
        "--model.likelihood",
        "gaussian_real",
    )
    done = tn("fit", *model, *data, "--features", "4", "--epochs", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    done = tn("evaluate", out, "--metrics", "bags")
    assert done.returncode == 0, done.stderr
    assert "bags_mmd_sum" in done.stdout
