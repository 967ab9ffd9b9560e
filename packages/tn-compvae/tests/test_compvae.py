"""The model: symmetries of its bound, training, samples of sets of any size, saving, errors."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tn_compvae import CompVAE, Noise, PartsMLP, Sines
from tn_compvae.networks import SaturatingSum
from tn_core import protocols
from tn_core.errors import UserError
from tn_core.plugins import PluginHost
from tn_core.storage import build_model, describe, load_model, save_model
from tn_core.training import Decay, Items, SeedEpochs, batches

SETS = torch.tensor([[2, 0, 2, 1], [4, -1, -1, -1], [3, 3, 1, -1], [-1, -1, -1, -1]])


def network(**arguments: Any) -> PartsMLP:
    defaults = {"shape": (12,), "features": 3, "labels": [5] * 4, "global_features": 2, "hidden": 16, "embedding": 4}
    return PartsMLP(**{**defaults, **arguments})


def model(**arguments: Any) -> CompVAE:
    return CompVAE(network(), **arguments)


def wholes(items: int = 4, size: int = 12) -> Tensor:
    return torch.randn(items, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def fit(trained: CompVAE, loader: Any, epochs: int = 1, **arguments: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **arguments},
    )
    trainer.fit(trained, loader)
    return trainer


# the bound


def test_the_order_of_parts_does_not_matter() -> None:
    m, x = model().double(), wholes()
    noise = m.noise(x, 4)
    expected = m.elbo(x, SETS, noise)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        moved = Noise(noise.whole, noise.nodes[:, order], noise.parts[:, order])
        torch.testing.assert_close(m.elbo(x, SETS[:, order], moved), expected, rtol=0, atol=1e-9)
    # while the parts themselves do: other noise, another value
    assert (m.elbo(x, SETS, m.noise(x, 4))[:3] - expected[:3]).abs().min() > 1e-6


@pytest.mark.parametrize("places", [5, 30])
def test_more_places_change_nothing(places: int) -> None:
    m, x = model().double(), wholes()
    noise = m.noise(x, 4)

    def padded(value: Tensor, fill: Tensor) -> Tensor:
        return torch.cat([value, fill[:, : places - 4]], 1)

    y = padded(SETS, torch.full((4, 30), -1))
    filled = Noise(
        noise.whole,
        padded(noise.nodes, torch.randn(4, 30, 4).double()),
        padded(noise.parts, torch.randn(4, 30, 3).double()),
    )
    torch.testing.assert_close(m.elbo(x, y, filled), m.elbo(x, SETS, noise), rtol=0, atol=1e-9)


def test_an_item_does_not_depend_on_the_others_in_its_batch() -> None:
    m, x = model().double(), wholes()
    noise = m.noise(x, 4)
    for k in range(4):
        alone = m.elbo(x[k : k + 1], SETS[k : k + 1], Noise(*(value[k : k + 1] for value in noise)))
        torch.testing.assert_close(alone[0], m.elbo(x, SETS, noise)[k], rtol=0, atol=1e-9)


def test_the_bound_is_the_sum_of_the_terms_of_equation_4() -> None:
    m, x = model().double(), wholes()
    noise = m.noise(x, 4)
    q_z = m.q_whole(x)
    z = q_z.mean + q_z.stddev * noise.whole
    total = []
    for k, count in enumerate((4, 1, 3, 0)):  # one whole at a time, without places that are absent
        at = slice(k, k + 1)
        y = SETS[at, :count]
        parts = m.schema.read(y)
        p = m.p_parts(parts)
        q = m.q_parts(x[at], z[at], parts, noise.nodes[at, :count], p)
        w = q.transform(noise.parts[at, :count]).sum(1)
        term = m.p_data(z[at], w).log_prob(x[at]).sum() + m.p_whole(w).log_prob(z[at]).sum()
        term -= torch.distributions.Normal(q_z.mean[at], q_z.stddev[at]).log_prob(z[at]).sum()
        total.append(term - q.divergence(p.mean, p.stddev)[0])
    torch.testing.assert_close(m.elbo(x, SETS, noise), torch.stack(total), rtol=0, atol=1e-9)


def test_the_importance_weighted_bound_lies_above_and_with_one_sample_is_the_bound() -> None:
    m = model().double()
    x, y = wholes(1).expand(4000, -1), SETS[2:3].expand(4000, -1)
    with torch.no_grad():
        elbo, one, ten = m.elbo(x, y), m.iwae(x, y, 1), m.iwae(x[:800], y[:800], 10)
    error = (elbo.var() / 4000 + one.var() / 4000).sqrt()
    assert (elbo.mean() - one.mean()).abs() < 4 * error
    assert ten.mean() > elbo.mean() + 4 * error
    assert isinstance(m, protocols.Bounds)
    assert isinstance(m, protocols.Samples)


def test_the_unit_of_the_bound() -> None:
    # a decoder that says N(0, 1) for all values: the bound is that density minus the divergences, nothing dropped
    m = model(min_deviation=1e-12).double()
    with torch.no_grad():
        for parameter in m.network.decoder[-2].parameters():
            parameter.zero_()
        m.network.decoder[-2].layers[-1].bias[12:24] = math.log(math.e - 1)  # softplus of it is 1
    x = wholes()
    z, w = torch.zeros(4, 2).double(), torch.zeros(4, 3).double()
    expected = -0.5 * x.square().sum(1) - 6 * math.log(2 * math.pi)
    torch.testing.assert_close(m.p_data(z, w).log_prob(x).sum(1), expected)


@pytest.mark.parametrize("raw", [-1e4, -30.0, 30.0, 1e4])
def test_deviations_stay_finite_and_above_their_bound(raw: float) -> None:
    m = model(min_deviation=1e-3)
    with torch.no_grad():
        m.network.decoder[-2].layers[-1].bias[12:] = raw
        m.network.part_deviation[-1].bias[:] = raw
        m.network.encoder[-1].bias[2:] = raw
        m.network.whole_prior[-1].bias[2:] = raw
    assert m.p_data(torch.zeros(1, 2), torch.zeros(1, 3)).stddev.min() >= 1e-3
    assert m.p_parts(m.schema.read(SETS)).stddev.min() >= 1e-3
    assert 0 < m.q_whole(wholes().float()).stddev.min() < math.inf
    p_z = m.p_whole(torch.zeros(1, 3)).stddev
    assert 0.999 / math.e < p_z.min()
    assert p_z.max() < 1.001 * math.e
    assert m.elbo(wholes().float(), SETS).isfinite().all()


def test_sums_saturate_at_their_levels() -> None:
    network = SaturatingSum(3, 8, 4).double()
    last = network.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[4:] = torch.tensor([-4.0, -4.0, 1e4, 1e4])  # levels of about 0.05 and of 10,000
    x = torch.randn(50, 3).double()
    linear, found = network.linear(x), network(x)
    level = 1e-3 + math.log1p(math.exp(-3.0))
    torch.testing.assert_close(found[:, :2], level * (linear[:, :2] / level).tanh())
    assert found[:, :2].abs().max() <= level < linear[:, :2].abs().max()
    torch.testing.assert_close(found[:, 2:], linear[:, 2:], atol=1e-6, rtol=1e-6)


def test_every_parameter_gets_a_gradient() -> None:
    m = model()
    x = wholes(32).float()
    m.elbo(x, torch.randint(5, (32, 4))).mean().backward()
    for name, parameter in m.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# training


@torch.no_grad()
def test_a_short_training_improves_the_bound(trained: CompVAE) -> None:
    test = Sines(parts=3, frequencies=4, length=50, test_items=256).split("test")
    after = trained.elbo(test.x, test.labels).mean()
    before = CompVAE(PartsMLP((50,), 16, [4] * 3, global_features=2, hidden=64)).elbo(test.x, test.labels).mean()
    assert after > before + 40  # nats, on data not trained on
    # and it has learned which parts belong to which whole
    assert after > trained.elbo(test.x, test.labels.roll(1, 0)).mean() + 20


@torch.no_grad()
def test_samples_follow_their_set(trained: CompVAE) -> None:
    m = trained
    # the shares of the frequencies in the power of lone parts: no other category has as much of one's frequency
    shares = []
    for category in range(4):
        x = m.sample(256, torch.tensor([category, -1, -1]))
        power = torch.fft.rfft(x).abs().square().mean(0)[1:5]
        shares.append(power / power.sum())
    assert torch.stack(shares).argmax(0).tolist() == [0, 1, 2, 3]
    # the size grows with the number of parts
    sizes = [m.sample(512, torch.randint(4, (512, k))).std() for k in (1, 2, 3)]
    assert sizes == sorted(sizes)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_sets_of_any_size_are_usable(trained: CompVAE, size: int) -> None:
    m = trained
    y = torch.randint(4, (16, size))
    x = m.sample(16, y)
    assert x.shape == (16, 50)
    assert x.isfinite().all()
    assert m.elbo(x, y).isfinite().all()
    assert m.iwae(x, y, 3).isfinite().all()


def test_what_is_logged_adds_up() -> None:
    loader = batches(Items(wholes(40).float(), torch.randint(-1, 5, (40, 4))), 8, seed=0)
    logged = fit(model(), loader).callback_metrics
    assert logged.keys() == {"elbo", "reconstruction", "divergence_parts", "divergence_whole"}
    total = logged["reconstruction"] - logged["divergence_parts"] - logged["divergence_whole"]
    torch.testing.assert_close(logged["elbo"], total)


def test_the_learning_rate_is_halved_down_to_a_millionth() -> None:
    m = model(learning_rate=1e-2, halve_every=2)
    loader = DataLoader(torch.utils.data.TensorDataset(wholes(40).float(), torch.zeros(40, 4).long()), 8)
    trainer = fit(m, loader)  # five steps
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 / 4)
    m = model(learning_rate=1e-2, halve_every=1)
    assert fit(m, loader, epochs=4).optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-6)
    m = model(learning_rate=1e-2, halve_every=0)
    assert fit(m, loader).optimizers[0].param_groups[0]["lr"] == 1e-2


def test_rates_are_halved_decay_and_the_priors_grows() -> None:
    class Rates(lightning.Callback):
        def __init__(self) -> None:
            self.seen: list[list[float]] = []

        def on_before_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.seen.append([group["lr"] for group in m.trainer.optimizers[0].param_groups])

    m, rates = model(learning_rate=1e-2, halve_every=2), Rates()
    loader = DataLoader(torch.utils.data.TensorDataset(wholes(40).float(), torch.zeros(40, 4).long()), 8)
    fit(m, loader, callbacks=[Decay(0.5), rates])  # five steps, in the last two of which the rates fall
    expected = [1e-2 * 0.5 ** (step // 2) * min(1, (1 - step / 5) / 0.5) for step in range(5)]
    assert [rate for rate, _ in rates.seen] == pytest.approx(expected)
    prior = [rate * (0.01 + step / 10_000) for step, rate in enumerate(expected)]
    assert [rate for _, rate in rates.seen] == pytest.approx(prior)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    items = torch.utils.data.TensorDataset(wholes(40).float(), SETS.repeat(10, 1))

    def run(epochs: int, start: Path | None = None) -> tuple[CompVAE, lightning.Trainer]:
        torch.manual_seed(0)
        m = model(halve_every=6)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[SeedEpochs(0)],
        )
        # a loader draws a seed whenever it starts: from a generator of its own, not from that of the noise
        loader = DataLoader(items, 8, generator=torch.Generator())
        trainer.fit(m, loader, ckpt_path=start, weights_only=True if start else None)
        return m, trainer

    whole, _ = run(3)
    _, trainer = run(1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again, _ = run(3, tmp_path / "one.ckpt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


# use


def test_samples_have_the_shape_of_the_data() -> None:
    m = CompVAE(network(shape=(2, 3, 2))).eval()
    assert m.sample(5, torch.tensor([1, 2])).shape == (5, 2, 3, 2)
    assert m.sample(5).shape == (5, 2, 3, 2)
    assert m.sample(4, SETS).shape == (4, 2, 3, 2)
    torch.manual_seed(4)
    one = m.sample(3)
    torch.manual_seed(4)
    assert torch.equal(one, m.sample(3))


def test_parts_of_one_category_are_drawn_apart() -> None:
    m = model().double()
    x, y = wholes(1), m.schema.read(torch.zeros(1, 3).long())
    p = m.p_parts(y)
    q = m.q_parts(x, torch.zeros(1, 2).double(), y, torch.randn(1, 3, 4).double(), p)
    assert (q.mean[0, 0] - q.mean[0, 1]).abs().min() > 1e-6
    # it is the noise that tells them apart
    q = m.q_parts(x, torch.zeros(1, 2).double(), y, torch.zeros(1, 3, 4).double(), p)
    torch.testing.assert_close(q.mean[0, 0], q.mean[0, 1])


@pytest.mark.parametrize(("part", "deviation_of_prior"), [([5], -1.0), ([5, protocols.Interval(-2, 2)], -4.0)])
def test_parts_differ_from_the_start(part: list[int | protocols.Interval], deviation_of_prior: float) -> None:
    m = CompVAE(network(labels=part * 4))
    y = m.schema.draw(4000, 1)
    described = m.schema.describe(m.schema.read(y), torch.float32).squeeze(1)
    with torch.no_grad():
        mean, raw, embedded = (f(described) for f in (m.network.part_mean, m.network.part_deviation, m.network.embed))
    for value, center, deviation in ((mean, 0.0, 1.0), (raw, deviation_of_prior, 2.0), (embedded, 0.0, 3.0)):
        torch.testing.assert_close(value.mean(0), torch.full_like(value[0], center), rtol=0, atol=0.3)
        torch.testing.assert_close(value.std(0), torch.full_like(value[0], deviation), rtol=0.15, atol=0)


def test_parts_that_are_all_alike_are_allowed() -> None:
    m = CompVAE(network(labels=[1] * 4))
    assert m.elbo(wholes().float(), torch.tensor([0, 0])).isfinite().all()


def test_the_posterior_follows_a_prior_that_becomes_narrow() -> None:
    m, y = model().double(), torch.tensor([[2, 3]])
    parts, noise = m.schema.read(y), m.noise(wholes(1), 2)
    with torch.no_grad():
        m.network.part_deviation[-1].bias -= 20
    p = m.p_parts(parts)
    q = m.q_parts(wholes(1), noise.whole, parts, noise.nodes, p)
    assert q.variance.sqrt().max() < 0.01
    assert q.divergence(p.mean, p.stddev).item() < 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_deviation": 0.0}, "min_deviation must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"halve_every": -1}, "halve_every must not be negative"),
    ],
)
def test_errors_of_the_constructor(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_errors_of_use() -> None:
    m, x = model(), wholes().float()
    with pytest.raises(ValueError, match="y, the sets of parts, is missing"):
        m.elbo(x)
    with pytest.raises(ValueError, match="y, the sets of parts, is missing"):
        m.iwae(x)
    for wrong in (SETS.float(), SETS > 0, SETS[:2], SETS.unsqueeze(0)):
        with pytest.raises(ValueError, match=r"must be long \(4, places\)"):
            m.elbo(x, wrong)
    for wrong in (torch.full((4, 1), 5), torch.full((4, 1), -2)):
        with pytest.raises(ValueError, match=r"a category 0\.\.4, or -1 for no part"):
            m.elbo(x, wrong)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        m.iwae(x, SETS, 0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        m.sample(0)
    with pytest.raises(ValueError, match=r"must be long \(3, places\)"):
        m.sample(3, SETS)
    with pytest.raises(ValueError, match=r"needs batches \(x, y\)"):
        m.training_step(x, 0)  # type: ignore[arg-type]


def test_saved_and_loaded_it_gives_the_same_samples(tmp_path: Path) -> None:
    host = PluginHost(strict=True)
    data = host.get("datasets", "sines")(parts=3, frequencies=4, length=20, items=64)
    spec = {"name": "CompVAE", "network": {"name": "PartsMLP", "hidden": 16, "layers": 1}}
    config = describe(spec, {"name": "sines"}, data.shape, data.labels, features=5, seed=0)
    m = build_model(config, host)
    assert (m.network.features, m.network.places, m.schema.categories, m.network.shape) == (5, 3, 4, (20,))
    split = data.split("train")
    fit(m, batches(Items(split.x, split.observed), 32, seed=0))
    save_model(m, config, tmp_path / "run")
    loaded, found = load_model(tmp_path / "run", host)
    assert found == config
    assert all(torch.equal(m.state_dict()[name], value) for name, value in loaded.state_dict().items())
    torch.manual_seed(2)
    expected = m.eval().sample(5)
    torch.manual_seed(2)
    assert torch.equal(loaded.sample(5), expected)
    images = describe(spec, {"name": "digits"}, (1, 8, 8), {}, features=5, seed=0)
    with pytest.raises(UserError, match="sets of parts need for each part a label"):
        build_model(images, host)
