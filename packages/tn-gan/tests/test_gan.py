"""The GAN: losses, who is trained when, gradients that reach the prior, samples, resuming, saving."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from torch.utils.data import DataLoader
from zuko.lazy import LazyDistribution

from tn_core import protocols
from tn_core.errors import UserError
from tn_core.plugins import PluginHost
from tn_core.storage import build_model, describe, load_model, save_model
from tn_core.training import History, Items, LastCheckpoint, SeedEpochs, batches
from tn_gan import GAN, GANConv
from tn_priors.trip import TRIP

SHAPE = (1, 8, 8)


def trip(**arguments: Any) -> TRIP:
    return TRIP(**{"features": 4, "components": 3, "rank": 2, "mean_range": 1.0, **arguments})


def gan(prior: LazyDistribution | None = None, **arguments: Any) -> GAN:
    network = arguments.pop("network", None) or GANConv(SHAPE, 4, channels=(4, 4))
    return GAN(network, prior or trip(), **arguments)


def data(items: int = 32) -> Tensor:
    return torch.rand(items, *SHAPE, generator=torch.Generator().manual_seed(1))


def fit(model: GAN, x: Any, batch_size: int = 16, epochs: int = 1, **arguments: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        **{
            "max_epochs": epochs,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **arguments,
        }
    )
    trainer.fit(model, DataLoader(x, batch_size) if isinstance(x, Tensor) else x)
    return trainer


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class MixtureWithoutGradients(LazyDistribution):
    """A learnable prior whose samples carry no gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2, 4))

    def forward(self, y: Any = None) -> Distribution:
        parts = Independent(Normal(self.mean, torch.ones(2, 4)), 1)
        return MixtureSameFamily(Categorical(logits=torch.zeros(2)), parts)


# losses


def test_losses_are_those_of_equation_9_in_nats() -> None:
    model = gan(loss="minimax").double().eval()
    x = data(16).double()
    torch.manual_seed(3)
    value = -model.discriminator_loss(x)
    torch.manual_seed(3)
    fake = model.generate(model.latents(16))
    d_real, d_fake = torch.sigmoid(model.discriminate(x)), torch.sigmoid(model.discriminate(fake))
    torch.testing.assert_close(value, d_real.log().mean() + (1 - d_fake).log().mean())
    torch.manual_seed(3)
    torch.testing.assert_close(model.generator_loss(16), (1 - d_fake).log().mean())
    model.loss = "non-saturating"
    torch.manual_seed(3)
    torch.testing.assert_close(model.generator_loss(16), -d_fake.log().mean())


def test_a_discriminator_that_cannot_tell_gives_two_log_two() -> None:
    model = gan()
    nn.init.zeros_(model.network.encoder[-1].weight)
    nn.init.zeros_(model.network.encoder[-1].bias)
    assert model.discriminator_loss(data()).item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert model.generator_loss(8).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("loss", ["non-saturating", "minimax"])
def test_gradients_reach_every_parameter_of_generator_and_prior(loss: Any) -> None:
    model = gan(loss=loss).double()
    model.generator_loss(64).backward()
    learned = dict(model.prior.named_parameters())
    assert {"means", "log_deviations"} <= learned.keys()
    assert any("cores" in name for name in learned)
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is not None for p in model.network.decoder.parameters())


def test_the_discriminator_loss_reaches_the_discriminator_only() -> None:
    model = gan()
    model.discriminator_loss(data()).backward()
    assert all(p.grad is not None for p in model.network.encoder.parameters())
    assert all(p.grad is None for p in [*model.network.decoder.parameters(), *model.prior.parameters()])


# training


def test_one_batch_changes_both_players_and_the_prior() -> None:
    model = gan()
    before = state(model)
    trainer = fit(model, data(16))
    assert trainer.global_step == 2  # one optimiser step each
    for name, parameter in model.named_parameters():
        assert not torch.equal(before[name], parameter), name
    logged = trainer.callback_metrics
    assert {"generator_loss", "discriminator_loss"} <= logged.keys()
    assert all(value.isfinite() for value in logged.values())


def test_a_fixed_prior_stays_as_it_is_to_the_bit() -> None:
    model = gan(trip(learnable=False))
    before = state(model.prior)
    fit(model, data())
    after = state(model.prior)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_prior_without_pathwise_gradients_stays_as_it_is_and_says_so() -> None:
    prior = MixtureWithoutGradients()
    model = gan(prior)
    before = state(model)
    with pytest.warns(UserWarning, match="MixtureWithoutGradients is not learned"):
        fit(model, data())
    assert torch.equal(before["prior.mean"], prior.mean)
    assert not torch.equal(before["network.decoder.0.weight"], model.network.decoder[0].weight)
    assert model.sample(3).shape == (3, *SHAPE)


def test_flows_are_priors_too() -> None:
    from zuko.flows import NICE

    model = gan(NICE(4, transforms=2, hidden_features=(8,)))
    before = state(model.prior)
    fit(model, data())
    assert any(not torch.equal(before[name], value) for name, value in state(model.prior).items())


def test_labels_in_a_batch_are_not_looked_at() -> None:
    x, y = data(), torch.randint(3, (32, 1))
    one, two = gan(trip(labels=[3])), gan(trip(labels=[3]))
    two.load_state_dict(one.state_dict())
    for model, labels in ((one, y), (two, torch.full_like(y, -1))):
        fit(model, batches(Items(x, labels), 16, seed=0), callbacks=[SeedEpochs(0)])
    assert all(torch.equal(one.state_dict()[name], value) for name, value in two.state_dict().items())


@pytest.mark.parametrize(("steps", "generator_steps"), [(1, 9), (2, 4), (4, 2), (5, 1), (10, 0)])
def test_turns_go_on_from_epoch_to_epoch(steps: int, generator_steps: int) -> None:
    # 3 epochs of 3 batches: the turns do not start again with an epoch
    model = gan(discriminator_steps=steps)
    trainer = fit(model, data(12), batch_size=4, epochs=3)
    assert trainer.global_step == 9 + generator_steps
    assert bool(model.optimizers()[0].state) == bool(generator_steps)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    x = data(40)

    def run(folder: Path, epochs: int, resume: bool) -> dict[str, Tensor]:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model, checkpoint = gan(discriminator_steps=2), folder / "last.ckpt"
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[SeedEpochs(0), History(folder / "history.jsonl", quiet=True), LastCheckpoint(checkpoint)],
        )
        # a loader draws a seed whenever it starts: from a generator of its own, not from that of the noise
        loader = DataLoader(x, 8, generator=torch.Generator())
        trainer.fit(model, loader, ckpt_path=checkpoint if resume else None, weights_only=resume or None)
        return state(model)

    whole = run(tmp_path / "whole", 3, resume=False)
    run(tmp_path / "parts", 1, resume=False)
    again = run(tmp_path / "parts", 3, resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


class Plain(nn.Module):
    """One number an item: the generator does nothing, so that only the prior can learn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        self.decoder = nn.Identity()
        self.anchor = nn.Parameter(torch.zeros(()))  # not a parameter of either player


def test_pathwise_gradients_carry_the_mean_of_the_prior_to_the_data() -> None:
    # in logits, data are N((1.5, -1), 0.5^2) and the prior starts as N(0, 0.5^2)
    torch.manual_seed(0)
    target = torch.tensor([1.5, -1.0])
    prior = TRIP(features=2, components=1, rank=1, deviation=0.5)
    model = GAN(Plain(), prior, learning_rate=1e-2, prior_learning_rate=1e-2, momentum=0.0)
    fit(model, torch.sigmoid(target + 0.5 * torch.randn(4096, 2)), batch_size=128, epochs=10)
    mean = prior().mean.detach()
    # it started at a distance of 1.8
    assert (mean - target).norm() < 0.6


# use


def test_samples() -> None:
    model = gan().eval()
    x = model.sample(7)
    assert isinstance(model, protocols.Samples)
    assert x.shape == (7, *SHAPE)
    assert not x.requires_grad
    assert 0 <= x.min() <= x.max() <= 1
    torch.manual_seed(5)
    one = model.sample(4)
    torch.manual_seed(5)
    assert torch.equal(one, model.sample(4))
    assert not torch.equal(one, model.sample(4))


def test_samples_refuse_labels_and_counts_below_one() -> None:
    model = gan(trip(labels=[3])).eval()
    with pytest.raises(ValueError, match="does not learn from labels"):
        model.sample(2, torch.tensor([1]))
    with pytest.raises(ValueError, match="count must be at least 1"):
        model.sample(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, "loss must be"),
        ({"discriminator_steps": 0}, "discriminator_steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"prior_learning_rate": -1.0}, "prior_learning_rate must be positive"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"network": nn.Linear(4, 1)}, "Linear has no encoder"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gan(**arguments)


def test_a_discriminator_with_more_outputs_is_refused() -> None:
    with pytest.raises(UserError, match="build GANConv with outputs=1"):
        gan(network=GANConv(SHAPE, 4, outputs=8)).discriminator_loss(data())


def test_saved_and_loaded_it_gives_the_same_samples(tmp_path: Path) -> None:
    host = PluginHost(strict=True)
    spec = {
        "name": "GAN",
        "network": {"name": "GANConv", "channels": [4, 4]},
        "prior": {"name": "TRIP", "components": 3, "rank": 2, "mean_range": 1.0},
    }
    config = describe(spec, {"name": "toy"}, SHAPE, {"kind": ["a", "b"]}, features=4, seed=0)
    model = build_model(config, host)
    fit(model, data())
    save_model(model, config, tmp_path / "run")
    loaded, found = load_model(tmp_path / "run", host)
    assert found == config
    assert all(torch.equal(model.state_dict()[name], value) for name, value in loaded.state_dict().items())
    model.eval()
    torch.manual_seed(2)
    expected = model.sample(5)
    torch.manual_seed(2)
    assert torch.equal(loaded.sample(5), expected)


def test_default_components() -> None:
    config = describe(
        {"name": "GAN", "network": "GANConv", "prior": "TRIP"}, {"name": "toy"}, (3, 32, 32), {}, features=6, seed=0
    )
    assert build_model(config, PluginHost(strict=True)).eval().sample(2).shape == (2, 3, 32, 32)
    with pytest.raises(UserError, match="GAN: loss must be"):
        build_model({**config, "model": {**config["model"], "loss": "x"}}, PluginHost(strict=True))
