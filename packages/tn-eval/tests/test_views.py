"""``tn hop | density | histogram`` on strangers' models whose priors are Gaussian: all they draw has a closed form.

Comparisons of averages allow 5 standard errors: each is wrong with probability 6e-7.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from tn_core import hookimpl
from tn_core.components import build
from tn_core.errors import UserError
from tn_core.plugins import PluginHost
from tn_core.storage import describe, save_model
from tn_eval.datasets import Digits
from tn_eval.pictures import save_density, save_histograms
from tn_eval.synthetic import TwoGaussians
from tn_eval.views import density, histogram, hop, mode_hops

MEAN = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
ROOT = torch.tensor(
    [[1.0, 0.0, 0.0, 0.0], [0.9, 0.5, 0.0, 0.0], [-0.4, 0.3, 0.7, 0.0], [0.2, 0.8, -0.5, 0.3]], dtype=torch.float64
)


class Joint(MultivariateNormal):
    """A Gaussian with exact marginals and conditionals."""

    def marginal(self, dims):
        """Some dimensions alone."""
        return Joint(self.loc[..., dims], self.covariance_matrix[..., dims, :][..., dims])

    def condition(self, values, mask):
        """The other dimensions given those where the mask is True."""
        c = self.covariance_matrix
        gain = torch.linalg.solve(c[mask][:, mask], c[mask][:, ~mask]).T
        mean = self.loc[~mask] + (values[:, mask] - self.loc[mask]) @ gain.T
        return MultivariateNormal(mean, c[~mask][:, ~mask] - gain @ c[mask][:, ~mask])


class Forgetful(Joint):
    """Wrong on purpose: its conditionals forget what is given."""

    def condition(self, values, mask):
        """The others, whatever is given."""
        return self.marginal((~mask).nonzero().flatten().tolist()).expand((len(values),))


class Prior(nn.Module):
    """Four correlated latents, float32; a digit adds itself to the first, a set of digits their mean."""

    labels = (10,)

    def forward(self, y=None):
        """The latents, given one set of digits."""
        loc = MEAN.float().clone()
        if y is not None:
            loc[0] += y[0].nonzero().double().mean()
        return Joint(loc, scale_tril=ROOT.float())


class Normals(nn.Module):
    """Independent standard normals without exact marginals or conditionals."""

    def forward(self, y=None):
        """No labels."""
        if y is not None:
            raise ValueError("Normals has no labels")
        return Independent(Normal(torch.zeros(4), torch.ones(4)), 1)


class Autoencoder(nn.Module):
    """Latents are four of the pixels, and every image has one colour."""

    def __init__(self, shape=(1, 8, 8)) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.prior = Prior()
        self.register_buffer("some", torch.zeros(1))

    def encode(self, x):
        """Pixels of the second row."""
        return x[:, 0, 1, 2:6]

    def decode(self, z):
        """One colour an image."""
        return torch.sigmoid(z.sum(1)).reshape(-1, 1, 1, 1).expand(-1, *self.shape)

    def sample(self, count, y=None):
        """From the prior."""
        return self.decode(self.prior(y).sample((count,)))


class Adversary(nn.Module):
    """Generates, but neither decodes nor encodes, and takes no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = Prior()
        self.register_buffer("some", torch.zeros(1))

    def generate(self, z):
        """One colour an image."""
        return torch.sigmoid(z.sum(1)).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)

    def sample(self, count, y=None):
        """Without labels."""
        if y is not None:
            raise ValueError("Adversary does not learn from labels")
        return self.generate(self.prior().sample((count,)))


class Plain(Autoencoder):
    """Its prior gives samples and a density, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = Normals()


class Broken(Plain):
    """Has latents that are no numbers."""

    def encode(self, x):
        """NaN."""
        return torch.full((len(x), 4), torch.nan)

    def sample(self, count, y=None):
        """NaN."""
        return torch.full((count, 1), torch.nan)


class Numbers(nn.Module):
    """Samples single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("some", torch.zeros(1))

    def sample(self, count, y=None):
        """Around 3."""
        return 3 + 0.5 * torch.randn(count, 1)


class Blank(nn.Module):
    """Offers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("some", torch.zeros(1))


MODELS = {model.__name__: model for model in (Autoencoder, Adversary, Plain, Broken, Numbers, Blank)}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Makes the folder of a model by name."""

    class Strangers:
        @hookimpl
        def models(self):
            """All of the above."""
            return MODELS

    host = PluginHost()
    host.register(Strangers())
    monkeypatch.setattr("tn_eval.views.default_host", lambda: host)

    def make(name="Autoencoder", data="digits", shape=(1, 8, 8)):
        spec = {"name": name}
        labels = {"digit": [str(i) for i in range(10)]} if len(shape) == 3 else dict(TwoGaussians.labels)
        config = describe(spec, {"name": data}, shape, labels, features=4)
        model = build(spec, "models", host, shape=shape, features=4, labels=[len(v) for v in labels.values()])
        save_model(model, config, tmp_path / "run")
        return tmp_path / "run"

    return make


@pytest.fixture
def drawn(monkeypatch):
    """What the picture of the last command was made of: the arguments of the function that draws it."""
    seen = {}

    def spy(name):
        def record(*args, **kwargs):
            seen.update(kwargs, args=args)

        monkeypatch.setattr(f"tn_eval.pictures.{name}", record)

    for name in ("save_grid", "save_density", "save_histograms"):
        spy(name)
    return seen


# walks


def off_by(p, steps=6, count=40_000, dimensions=2):
    """The largest deviation of a state's moments from those of a Gaussian p, in standard errors; 84 comparisons."""
    z = mode_hops(p, steps, count, dimensions)
    c = p.covariance_matrix
    worst = 0.0
    for state in z:
        errors = (state.mean(0) - p.loc) / (c.diagonal() / count).sqrt()
        centred = state - p.loc
        moments = centred.T @ centred / count - c
        errors_2 = moments / ((c.diagonal()[:, None] * c.diagonal() + c**2) / count).sqrt()
        worst = max(worst, float(errors.abs().max()), float(errors_2.abs().max()))
    return worst


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_a_walk_leaves_the_distribution_as_it_is(dimensions):
    torch.manual_seed(0)
    assert off_by(Joint(MEAN, scale_tril=ROOT), dimensions=dimensions) < 5


def test_a_walk_with_wrong_conditionals_is_found_out():
    """The power of the test above: conditionals that forget what is given lose the correlations."""
    torch.manual_seed(0)
    assert off_by(Forgetful(MEAN, scale_tril=ROOT)) > 50


def test_a_step_draws_so_many_dimensions_of_all_walks():
    torch.manual_seed(0)
    z = mode_hops(Joint(MEAN, scale_tril=ROOT), steps=1001, count=3, dimensions=2)
    assert z.shape == (1001, 3, 4)
    assert z.dtype == torch.float64
    changed = z[1:] != z[:-1]
    assert bool((changed.sum(-1) == 2).all())
    assert bool((changed == changed[:, :1]).all())
    # every dimension is chosen half the time, within 5 standard errors
    share = changed[:, 0].double().mean(0)
    assert bool(((share - 0.5).abs() < 5 * 0.5 / 1000**0.5).all())


def test_a_step_of_all_dimensions_forgets_the_last():
    torch.manual_seed(0)
    z = mode_hops(Joint(MEAN, scale_tril=ROOT), steps=2, count=40_000, dimensions=4) - MEAN
    spread = ROOT.square().sum(1).sqrt()
    correlation = (z[0] / spread).T @ (z[1] / spread) / 40_000
    assert float(correlation.abs().max()) < 5 / 40_000**0.5


def test_one_state_is_the_start():
    assert mode_hops(Joint(MEAN, scale_tril=ROOT), steps=1, count=3, dimensions=2).shape == (1, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1), "steps and count must be at least 1, got 0 and 1"),
        ((1, 0, 1), "steps and count must be at least 1, got 1 and 0"),
        ((1, 1, 0), "dimensions must be from 1 to 4, the number of latents; got 0"),
        ((1, 1, 5), "dimensions must be from 1 to 4, the number of latents; got 5"),
    ],
)
def test_walks_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        mode_hops(Joint(MEAN, scale_tril=ROOT), *arguments)


def test_walks_need_conditionals():
    with pytest.raises(ValueError, match=r"Independent has no exact conditionals \(no method condition\)"):
        mode_hops(Normals()(), 2, 2, 2)


# tn hop


@pytest.mark.parametrize("name", ["Autoencoder", "Adversary"])
def test_hop_draws_a_row_a_walk(run, name, drawn, monkeypatch):
    walks = []
    monkeypatch.setattr("tn_eval.views.mode_hops", lambda *args: walks.append(mode_hops(*args)) or walks[0])
    hop(str(run(name)), dimensions=2, steps=6, count=3)
    images, _, columns = drawn["args"]
    assert columns == 6
    assert images.shape == (18, 1, 8, 8)
    colours = torch.sigmoid(walks[0].sum(-1))  # shape: (steps, walks)
    assert torch.allclose(images[:, 0, 0, 0].reshape(3, 6), colours.T)


def test_hop_writes_the_same_picture_again(run, tmp_path, capsys):
    folder = run()
    hop(str(folder), dimensions=2)
    assert capsys.readouterr().out == f"hops: {folder / 'hops.png'}\n"
    with Image.open(folder / "hops.png") as picture:
        assert picture.size == (10 * 34 + 2, 8 * 34 + 2)  # 8x8 enlarged fourfold, borders of 2
    hop(str(folder), dimensions=2, out=str(tmp_path / "again.png"))
    hop(str(folder), dimensions=2, seed=1, out=str(tmp_path / "other.png"))
    again, other = (tmp_path / "again.png").read_bytes(), (tmp_path / "other.png").read_bytes()
    assert (folder / "hops.png").read_bytes() == again != other


@pytest.mark.parametrize(("labels", "shift"), [("digit=3", 3.0), ("digit=3|8", 5.5), ("digit=!0|1", 5.5)])
def test_labels_hold_all_along_the_walk(run, drawn, monkeypatch, labels, shift):
    walks = []
    monkeypatch.setattr("tn_eval.views.mode_hops", lambda *args: walks.append(mode_hops(*args)) or walks[0])
    hop(str(run()), dimensions=2, steps=5, count=10_000, labels=labels)
    expected = MEAN.clone()
    expected[0] += shift
    deviation = ROOT.square().sum(1).sqrt()
    assert bool(((walks[0].mean(1) - expected).abs() < 5 * deviation / 100).all())


# tn density


def test_exact_density(run, drawn, capsys):
    """On the grid it is that of the marginal, and the window holds nearly all of its mass."""
    density(str(run()), dims="3,1", points=0)
    values, low, high, path = drawn["args"]
    assert path.name == "density.png"
    assert drawn["title"] == "p(z_3, z_1), exact"
    assert drawn["axes"] == ("z_3", "z_1")
    assert drawn["points"] is None
    sides = [(b - a) / len(values) for a, b in zip(low, high, strict=True)]
    assert 0.995 < float(values.double().sum()) * sides[0] * sides[1] < 1.0001
    covariance = (ROOT @ ROOT.T).numpy()[np.ix_([3, 1], [3, 1])]
    oracle = scipy.stats.multivariate_normal(MEAN[[3, 1]].numpy(), covariance)
    i, j = np.array([20, 100, 150]), np.array([110, 90, 160])
    where = np.stack([low[0] + (i + 0.5) * sides[0], low[1] + (j + 0.5) * sides[1]], -1)
    assert values[i, j].tolist() == pytest.approx(oracle.pdf(where).tolist(), rel=1e-4)
    assert "(exact)" in capsys.readouterr().out


def test_density_by_samples(run, drawn):
    """The count of every cell is binomial with the cell's probability: 6,400 two-sided tests, at 1e-9 each."""
    density(str(run("Plain")), dims="0,2", samples=50_000, points=0)
    values, low, high, _ = drawn["args"]
    assert drawn["title"] == "p(z_0, z_2), histogram of 50,000 samples"
    edges = [np.linspace(a, b, 81) for a, b in zip(low, high, strict=True)]
    shares = [np.diff(scipy.stats.norm.cdf(e)) for e in edges]
    expected = scipy.stats.binom(50_000, np.outer(*shares))
    area = np.prod([e[1] - e[0] for e in edges])
    counts = np.rint(values.numpy() * 50_000 * area)
    assert np.allclose(counts, values.numpy() * 50_000 * area)
    assert np.all(expected.cdf(counts) > 5e-10)
    assert np.all(expected.sf(counts - 1) > 5e-10)


def test_density_given_labels_with_the_test_items_that_have_them(run, drawn):
    density(str(run()), labels="digit=2|3")
    values, low, high, _ = drawn["args"]
    assert drawn["title"] == "p(z_0, z_1 | digit=2|3), exact"
    first = torch.linspace(low[0], high[0], 401)[1::2]
    mean = float((values.sum(1) * first).sum() / values.sum())
    assert mean == pytest.approx(0.5 + 2.5, abs=0.05)
    test = Digits().split("test")
    items = test.x[(test.labels[:, 0] == 2) | (test.labels[:, 0] == 3)].float() / 255
    found = sorted(drawn["points"].tolist())
    assert torch.allclose(torch.tensor(found), torch.tensor(sorted(items[:, 0, 1, 2:4].tolist())))
    assert drawn["points_are"] == f"posterior means of {len(items)} test items"


def test_points_are_a_choice_that_stays_the_same(run, drawn):
    folder = run()
    density(str(folder), points=50)
    first = drawn["points"]
    assert first.shape == (50, 2)
    density(str(folder), points=50, seed=3)
    assert torch.equal(first, drawn["points"])


def test_the_window_shows_the_points_too(run, drawn, monkeypatch):
    monkeypatch.setattr(Autoencoder, "encode", lambda self, x: torch.full((len(x), 4), 30.0))
    density(str(run()))
    _, low, high, _ = drawn["args"]
    assert max(low) < -1
    assert min(high) > 30


def test_no_points_without_data_or_encoder(run, drawn, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    density(str(run(data="mnist")))
    assert drawn["points"] is None
    assert "no points of test data: MNIST: no " in capsys.readouterr().out
    with pytest.raises(UserError, match="MNIST: no "):
        density(str(run(data="mnist")), data_root="nowhere")
    density(str(run("Adversary")))
    assert drawn["points"] is None
    assert "no points" not in capsys.readouterr().out
    monkeypatch.setattr("tn_eval.datasets.Digits.read", lambda self, name: (np.zeros((2, 1, 8, 8), "u1"), np.zeros(2)))
    density(str(run()), labels="digit=7")
    assert drawn["points"] is None
    assert "no test item has these labels" in capsys.readouterr().out


# tn histogram


def test_histogram_of_test_items_and_samples(run, drawn):
    folder = run("Numbers", "two-gaussians", (1,))
    histogram(str(folder), count=4000, bins=33)
    groups, path, bins = drawn["args"]
    assert (path, bins) == (folder / "histogram.png", 33)
    assert list(groups) == ["10,000 test items", "4,000 samples of Numbers"]
    truth, samples = groups.values()
    assert torch.equal(truth, TwoGaussians().split("test").x)
    assert samples.shape == (4000, 1)
    assert abs(float(samples.mean()) - 3) < 5 * 0.5 / 4000**0.5


# errors


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("Autoencoder", lambda f: hop(f), "dimensions must be from 1 to 4"),
        ("Autoencoder", lambda f: hop(f, dimensions=0), "dimensions must be at least 1, got 0"),
        ("Autoencoder", lambda f: hop(f, steps=0), "steps must be at least 1, got 0"),
        ("Autoencoder", lambda f: hop(f, count=-1), "count must be at least 1, got -1"),
        ("Autoencoder", lambda f: hop(f, seed=-1), "seed"),
        ("Autoencoder", lambda f: hop(f, labels="digit=11"), "no value '11'"),
        ("Autoencoder", lambda f: hop(f, labels="hat=1"), "labels digit"),
        ("Autoencoder", lambda f: hop(f, out="hops.jpg"), "must be a .png"),
        ("Autoencoder", lambda f: hop(f, out="nowhere/hops.png"), "no folder nowhere"),
        ("Autoencoder", lambda f: hop(f"{f}/nowhere"), "nowhere is not a folder; it should be one"),
        ("Adversary", lambda f: hop(f, labels="digit=1"), "Adversary does not learn from labels"),
        ("Plain", lambda f: hop(f, dimensions=2), "no exact conditionals"),
        ("Plain", lambda f: hop(f, labels="digit=1"), "Normals has no labels"),
        ("Blank", lambda f: hop(f), "Blank turns no latents into data"),
        ("Blank", lambda f: density(f), "Blank has no prior"),
        ("Autoencoder", lambda f: density(f, dims="0"), "dims must be two different latents"),
        ("Autoencoder", lambda f: density(f, dims="0,0"), "dims must be two different latents"),
        ("Autoencoder", lambda f: density(f, dims="0,1,2"), "dims must be two different latents"),
        ("Autoencoder", lambda f: density(f, dims="-1,2"), "dims must be two different latents"),
        ("Autoencoder", lambda f: density(f, dims="a,b"), "got 'a,b'"),
        ("Autoencoder", lambda f: density(f, dims="0,4"), "dims must be from 0 to 3, the model has 4 latents; got 4"),
        ("Autoencoder", lambda f: density(f, samples=0), "samples"),
        ("Autoencoder", lambda f: density(f, points=-1), "points must be at least 0"),
        ("Autoencoder", lambda f: density(f, labels="digit=x"), "no value 'x'"),
        ("Autoencoder", lambda f: density(f, out=f), "must be a .png"),
        ("Adversary", lambda f: density(f, labels="digit=1"), "does not learn from labels"),
        ("Broken", lambda f: density(f), "the posterior means hold NaN"),
        ("Autoencoder", lambda f: histogram(f), r"shape \(1,\) or \(2,\), .*; these have shape \(1, 8, 8\)"),
        ("Autoencoder", lambda f: histogram(f, bins=0), "bins must be at least 1"),
        ("Autoencoder", lambda f: histogram(f, count=0), "count must be at least 1"),
    ],
)
def test_errors_leave_nothing_behind(run, name, call, message, monkeypatch, tmp_path):
    folder = run(name)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        call(str(folder))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("Numbers", lambda f: hop(f), r"needs a model of images.* \(1,\)"),
        ("Broken", lambda f: histogram(f), "the model's samples hold NaN"),
        ("Blank", lambda f: histogram(f), "Blank cannot sample"),
    ],
)
def test_errors_with_numbers(run, name, call, message):
    folder = run(name, "two-gaussians", (1,))
    with pytest.raises(UserError, match=message):
        call(str(folder))
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "model.safetensors"]


def test_a_folder_that_cannot_be_written_is_told_before_any_work(run, monkeypatch):
    folder = run()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("tn_eval.views.load_model", lambda *_: pytest.fail("work was begun"))
    for command in (hop, density):
        with pytest.raises(UserError, match="is not writable"):
            command(str(folder))


# the pictures themselves


def pixels(path: Path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def centre_of(image, colour):
    """Where the pixels of a colour lie, as shares of the picture's width and height from the upper left."""
    rows, columns = np.nonzero(np.abs(image - colour).max(-1) < 12)
    assert len(rows)
    return columns.mean() / image.shape[1], rows.mean() / image.shape[0]


@pytest.mark.parametrize(("i", "j"), [(0, 0), (0, 7), (5, 0), (5, 7)])
def test_the_first_dimension_goes_right_and_the_second_up(tmp_path, i, j):
    values = torch.zeros(6, 8)
    values[i, j] = 1.0
    save_density(values, [0, 0], [6, 8], tmp_path / "x.png", title="x", axes=("a", "b"))
    image = pixels(tmp_path / "x.png")[:, :750]  # without the bar of colours
    across, up = centre_of(image, (252, 253, 191))
    assert (across > 0.5, up < 0.5) == (i > 0, j > 0)


def test_points_lie_where_the_density_does(tmp_path):
    values = torch.zeros(10, 10)
    points = torch.tensor([[2.5, 3.5]]).repeat(50, 1)  # over one another, so that they hide the map
    values[2, 3] = 1.0
    for name, shown in (("cell", None), ("point", points)):
        save_density(
            values, [0, 0], [10, 10], tmp_path / name, title="$x", axes=("a", "b"), points=shown, points_are="p"
        )
    cell = centre_of(pixels(tmp_path / "cell")[:, :700], (252, 253, 191))
    point = centre_of(pixels(tmp_path / "point")[400:, :700], (0, 191, 255))
    point = (point[0], (point[1] * 440 + 400) / 840)
    assert point == pytest.approx(cell, abs=0.01)


def test_histograms_share_their_bins_and_axes(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("tn_eval.pictures._save", lambda figure, path: figures.append(figure))
    one, two = torch.rand(1000, 1), 5 + torch.rand(3000, 1)
    save_histograms({"one $": one, "two": two}, tmp_path / "x.png", 60)
    left, right = figures[0].axes
    assert (left.get_title(), right.get_title()) == ("one $", "two")
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    for panel, numbers in ((left, one), (right, two)):
        heights, edges, _ = panel.patches[0].get_data()
        assert (len(heights), edges[0], edges[-1]) == (60, one.min(), two.max())
        assert np.allclose(heights * np.diff(edges) * len(numbers), np.histogram(numbers, edges)[0])


def test_histograms_of_points_share_their_bins_and_axes(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("tn_eval.pictures._save", lambda figure, path: figures.append(figure))
    one = torch.rand(1000, 2)
    two = torch.rand(3000, 2) + torch.tensor([5.0, 1.0])
    save_histograms({"one": one, "two": two}, tmp_path / "x.png", 60)
    left, right = figures[0].axes
    assert left.get_xlim() == right.get_xlim() == pytest.approx((float(one[:, 0].min()), float(two[:, 0].max())))
    assert left.get_ylim() == right.get_ylim() == pytest.approx((float(one[:, 1].min()), float(two[:, 1].max())))
    for panel, points in ((left, one), (right, two)):
        x, y = panel.collections[0].get_coordinates()[0, :, 0], panel.collections[0].get_coordinates()[:, 0, 1]
        heights = panel.collections[0].get_array().filled(0).reshape(60, 60).T
        counts = heights * np.outer(np.diff(x), np.diff(y)) * len(points)
        assert np.allclose(counts, np.histogram2d(*points.double().numpy().T, [x, y])[0])


def test_pictures_are_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "file").write_text("")
    values = {"one": torch.rand(10, 1), "the same number": torch.ones(10, 1)}
    save_histograms(values, tmp_path / "x.png", 5)
    assert pixels(tmp_path / "x.png").ndim == 3
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot write"):
        save_histograms(values, tmp_path / "file" / "x.png", 5)
    with pytest.raises(UserError, match="cannot write"):
        save_density(torch.ones(2, 2), [0, 0], [1, 1], tmp_path / "file" / "x.png", title="", axes=("a", "b"))
    assert sorted(tmp_path.iterdir()) == before


def alone(code: str, *arguments: str) -> str:
    """What Python prints that runs this and nothing else."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_pictures_leave_the_state_of_matplotlib_alone(tmp_path):
    code = """
import sys, torch, matplotlib
names = set(matplotlib.rcParams) - {"backend"}  # to look at that one makes matplotlib choose one
before = {name: matplotlib.rcParams[name] for name in names}
from pathlib import Path
from tn_eval.pictures import save_density, save_histograms
save_density(torch.ones(2, 2), [0, 0], [1, 1], Path(sys.argv[1], "d.png"), title="", axes=("a", "b"))
save_histograms({"one": torch.rand(10, 1)}, Path(sys.argv[1], "h.png"), 5)
print("matplotlib.pyplot" in sys.modules, all(matplotlib.rcParams[name] == before[name] for name in names))
"""
    assert alone(code, str(tmp_path)).split() == ["False", "True"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.png", "h.png"]


def test_the_command_line_reads_the_commands_without_importing_anything_heavy():
    heavy = ["torch", "torchvision", "sklearn", "scipy", "numpy", "PIL", "matplotlib", "lightning"]
    assert alone(f"import sys, tn_eval.views; print([name for name in {heavy} if name in sys.modules])") == "[]\n"


def test_a_picture_without_matplotlib(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("tn_eval.views.load_model", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(UserError, match="python -m pip install matplotlib"):
        density(str(run()))
    with pytest.raises(UserError, match="python -m pip install matplotlib"):
        histogram(str(run("Numbers", "two-gaussians", (1,))))
