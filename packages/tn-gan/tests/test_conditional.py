"""The conditional GAN: what it costs, labels that are missing, what it learns, samples, saving; and the embedding."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from torch import Tensor, nn

from tn_core import protocols
from tn_core.components import build
from tn_core.errors import UserError
from tn_core.plugins import PluginHost
from tn_core.protocols import Interval
from tn_core.storage import build_model, describe, load_model, save_model
from tn_core.training import Items, SeedEpochs, batches
from tn_gan import GANMLP, ConditionalGAN, GANConv, LabelEmbedding
from tn_priors import TRIP, StandardNormal

SHAPE = (1, 8, 8)
SIZES = (3, 2)
OUTPUTS = 1 + sum(SIZES)
Y = torch.tensor([[0, 1], [2, -1], [-1, -1], [-1, 0]])


def gan(prior: Any = None, **arguments: Any) -> ConditionalGAN:
    network = arguments.pop("network", None) or GANConv(SHAPE, 4, OUTPUTS, channels=(4, 4))
    prior = prior or TRIP(features=4, components=3, rank=6, labels=SIZES, mean_range=1.0)
    return ConditionalGAN(network, prior, **{"labels": SIZES, **arguments})


def fit(model: ConditionalGAN, x: Tensor, y: Tensor, batch_size: int = 16, epochs: int = 1) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SeedEpochs(0)],
    )
    trainer.fit(model, batches(Items(x, y), batch_size, 0))
    return trainer


def images(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, *SHAPE, generator=generator)
    return x, torch.stack([torch.randint(-1, size, (count,), generator=generator) for size in SIZES], 1)


# what it costs


def test_scores_of_known_labels_are_added() -> None:
    model, x = gan().double(), torch.rand(4, *SHAPE, dtype=torch.float64)
    f, g = model.network.encoder(x).split([1, 5], 1)
    expected = f[:, 0] + torch.stack([g[0, 0] + g[0, 3 + 1], g[1, 2], g[2, 0] * 0, g[3, 3 + 0]])
    torch.testing.assert_close(model.discriminate(x, Y), expected)
    torch.testing.assert_close(model.discriminate(x), f[:, 0])
    torch.testing.assert_close(model.costs("real", x, Y), nn.functional.softplus(-expected))
    torch.testing.assert_close(model.costs("generator", x, Y), nn.functional.softplus(-expected))
    torch.testing.assert_close(model.costs("fake", x, Y), nn.functional.softplus(expected))


def test_labels_that_are_not_recognised_cost_their_log_probability() -> None:
    model, x = gan(conditioning="classifier", label_weight=2.0).double(), torch.rand(4, *SHAPE, dtype=torch.float64)
    f, a, b = model.network.encoder(x).split([1, *SIZES], 1)
    a, b = a.log_softmax(1), b.log_softmax(1)
    torch.testing.assert_close(model.discriminate(x, Y), f[:, 0])
    torch.testing.assert_close(model.costs("fake", x, Y), nn.functional.softplus(f[:, 0]))
    log_p = a[0, 0] + b[0, 1] + a[1, 2] + b[3, 0]
    expected = nn.functional.softplus(-f[:, 0]).mean() - 2 * log_p / 3  # three items have a label
    for part in ("real", "generator"):
        torch.testing.assert_close(model.costs(part, x, Y).mean(), expected)


def test_latents_that_do_not_tell_their_labels_cost_the_log_probability() -> None:
    model, z = gan(label_weight=2.0).double(), torch.randn(4, 4, dtype=torch.float64)
    every = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    log_joint = model.prior(every).log_prob(z[:, None]) + model.prior.log_prob_labels(every)
    log_p = log_joint.log_softmax(1)  # Bayes, over all six pairs
    fits = ((Y[:, None] == every) | (Y[:, None] < 0)).all(2)
    told = torch.where(fits, log_p, -math.inf).logsumexp(1)
    data = model.costs("generator", model.generate(z), Y)
    torch.testing.assert_close(model.latent_costs(z, Y), data - 2 * 4 / 3 * told)  # three of four have a label
    torch.testing.assert_close(model.latent_costs(z), model.costs("generator", model.generate(z)))


def test_labels_are_learned_from_what_is_known_of_them() -> None:
    """The loss of the players does not depend on logits of the labels alone: what is left is -log p(y_ob)."""
    model = gan().double().eval()
    torch.manual_seed(3)
    loss = model.generator_loss(4, Y)
    torch.manual_seed(3)
    cost = model.latent_costs(model.latents(4, Y), Y).mean()
    torch.testing.assert_close(loss, cost - model.prior.log_prob_labels(Y).mean())


@pytest.mark.parametrize("conditioning", ["projection", "classifier"])
@pytest.mark.parametrize("estimator", ["pathwise", "score-function", "hybrid"])
def test_gradients_reach_every_parameter(conditioning: Any, estimator: Any) -> None:
    model = gan(conditioning=conditioning, estimator=estimator).double()
    y = torch.cat([Y] * 8)
    model.generator_loss(32, y).backward()
    for name, parameter in [*model.prior.named_parameters(), *model.network.decoder.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert name.endswith("bias") or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("conditioning", ["projection", "classifier"])
@pytest.mark.parametrize("objective", ["non-saturating", "wgan-gp", "sn-gan"])
def test_nothing_known_in_a_batch(conditioning: Any, objective: Any) -> None:
    model = gan(conditioning=conditioning, objective=objective)
    x, y = images(32)
    before = model.network.decoder[1].weight.clone()
    trainer = fit(model, x, torch.full_like(y, -1))
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert not torch.equal(before, model.network.decoder[1].weight)


# what it learns


@pytest.mark.parametrize("prior", ["TRIP", "LabelEmbedding"])
@pytest.mark.parametrize("conditioning", ["projection", "classifier"])
def test_three_kinds_of_points_with_70_percent_of_the_labels_hidden(prior: str, conditioning: Any) -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]])
    y = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 6000, replacement=True)
    x = centres[y] + 0.03 * torch.randn(6000, 2)
    seen = torch.where(torch.rand(6000) < 0.7, -1, y).unsqueeze(1)
    host = PluginHost(strict=True)
    options = {"rank": 6, "mean_range": 1.0, "deviation": 0.3} if prior == "TRIP" else {"size": 2}
    latents = build({"name": prior, **options}, "priors", host, features=4, labels=[3])
    network = GANMLP((2,), 4, outputs=4, hidden=(32, 32))
    model = ConditionalGAN(network, latents, [3], conditioning, learning_rate=2e-3, betas=(0.0, 0.999), averaging=0.99)
    fit(model, x, seen, batch_size=64, epochs=10)
    model.eval()
    asked = torch.arange(3).repeat_interleave(200).unsqueeze(1)
    nearest = torch.cdist(model.sample(600, asked), centres).argmin(1)
    assert (nearest == asked[:, 0]).double().mean() > 0.9
    # and how often there is which, from the labels that are known
    shares = model.prior.log_prob_labels(torch.arange(3).unsqueeze(1)).exp()
    assert (shares - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 0.1


# use


def test_samples_given_labels() -> None:
    model = gan().eval()
    assert isinstance(model, protocols.Samples)
    assert model.has_labels
    for y in (None, torch.tensor([1, -1]), Y, [torch.tensor([True, False, True]), None]):
        x = model.sample(4, y)
        assert x.shape == (4, *SHAPE)
        assert not x.requires_grad
    with pytest.raises(ValueError, match="count must be at least 1"):
        model.sample(0)
    with pytest.raises(ValueError, match="label 0 has values 0 to 2"):
        model.sample(1, torch.tensor([3, 0]))


def test_saved_and_loaded_it_gives_the_same_samples(tmp_path: Path) -> None:
    host = PluginHost(strict=True)
    labels = {"a": list("xyz"), "b": list("no")}
    for prior in ({"name": "TRIP", "rank": 3}, {"name": "LabelEmbedding", "size": 2}):
        spec = {"name": "ConditionalGAN", "network": {"name": "GANConv", "channels": [4, 4]}, "prior": prior}
        config = describe(spec, {"name": "toy"}, SHAPE, labels, features=4, seed=0)
        model = build_model(config, host)
        fit(model, *images(32))
        folder = tmp_path / prior["name"]
        save_model(model, config, folder)
        loaded, _ = load_model(folder, host)
        torch.manual_seed(2)
        expected = model.eval().sample(4, Y)
        torch.manual_seed(2)
        assert torch.equal(loaded.sample(4, Y), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conditioning": "auxiliary"}, "conditioning must be"),
        ({"label_weight": -1.0}, "label_weight must be at least 0"),
        ({"labels": ()}, "these data have no labels"),
        ({"labels": (3, Interval(0.0, 1.0))}, "label 1 is continuous"),
        ({"prior": StandardNormal(4)}, "the prior StandardNormal has no labels"),
        ({"objective": "hinge"}, "objective must be one of"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gan(**arguments)


def test_a_discriminator_with_too_few_outputs_is_refused() -> None:
    model = gan(network=GANConv(SHAPE, 4, channels=(4, 4)))
    with pytest.raises(UserError, match="build GANConv with outputs=6"):
        model.discriminator_loss(*images(4))


# the embedding


def test_noise_beside_the_vectors_of_the_values() -> None:
    torch.manual_seed(0)
    prior = LabelEmbedding(5, SIZES, size=2)
    z = prior(torch.tensor([[1, 0], [2, 1]])).sample((4000,))
    assert z.shape == (4000, 2, 5)
    a, b = prior.vectors
    assert torch.equal(z[:, 0, 3:], (a[1] + b[0]).expand(4000, 2))
    assert torch.equal(z[:, 1, 3:], (a[2] + b[1]).expand(4000, 2))
    noise = z[..., :3].flatten(0, 1)  # 8,000 draws: 5 standard errors
    assert (noise.mean(0).abs() < 5 / 8000**0.5).all()
    assert ((noise.var(0) - 1).abs() < 5 * (2 / 8000) ** 0.5).all()


def test_unknown_labels_are_drawn_as_often_as_their_logits_say() -> None:
    torch.manual_seed(0)
    prior = LabelEmbedding(3, [2, 3], size=1)
    with torch.no_grad():
        prior.logits[0].copy_(torch.tensor([0.75, 0.25]).log())
        prior.vectors[0].copy_(torch.tensor([[0.0], [1.0]]))
        prior.vectors[1].copy_(torch.tensor([[0.0], [10.0], [20.0]]))
    found = prior().sample((4000,))[:, 2]
    assert abs(found.remainder(10).mean().item() - 0.25) < math.sqrt(math.log(2e9) / 8000)  # Hoeffding, 1 in 1e9
    assert set(found.tolist()) == {0.0, 1.0, 10.0, 11.0, 20.0, 21.0}
    only = prior([None, torch.tensor([True, False, True])]).sample((1000,))[:, 2]
    assert set(only.tolist()) == {0.0, 1.0, 20.0, 21.0}
    assert prior(torch.tensor([[-1, 1]])).sample((5,)).shape == (5, 1, 3)


def test_log_probabilities_of_labels() -> None:
    prior = LabelEmbedding(3, [2, 3], size=1)
    with torch.no_grad():
        prior.logits[0].copy_(torch.tensor([0.75, 0.25]).log() + 1)
    y = torch.tensor([[0, 2], [1, -1], [-1, -1]])
    expected = torch.tensor([0.75 / 3, 0.25, 1.0]).log()
    torch.testing.assert_close(prior.log_prob_labels(y), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ()}, "labels must be numbers of values"),
        ({"labels": (1,)}, "labels must be numbers of values"),
        ({"labels": (Interval(0.0, 1.0),)}, "labels must be numbers of values"),
        ({"size": 4}, "size must be from 1 to 3"),
        ({"size": 0}, "size must be from 1 to 3"),
    ],
)
def test_errors_of_the_embedding(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelEmbedding(**{"features": 4, "labels": [2], "size": 2, **arguments})


def test_labels_that_do_not_fit_the_embedding() -> None:
    prior = LabelEmbedding(4, [2, 3], size=2)
    with pytest.raises(ValueError, match="one entry for each of 2 labels, got 1"):
        prior(torch.tensor([[0]]))
    with pytest.raises(ValueError, match="label 1 has values 0 to 2"):
        prior(torch.tensor([[0, 3]]))
