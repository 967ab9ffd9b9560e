"""The GAN: objectives, estimators, who is trained when, averages, samples, resuming, saving."""

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
from tn_gan import GAN, ConditionalGAN, GANConv, LabelEmbedding
from tn_priors import TRIP, GaussianMixture, StandardNormal

SHAPE = (1, 8, 8)
ESTIMATORS = ["pathwise", "score-function", "hybrid"]


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
    model = gan(objective="minimax").double().eval()
    x = data(16).double()
    torch.manual_seed(3)
    value = -model.discriminator_loss(x)
    torch.manual_seed(3)
    fake = model.generate(model.latents(16))
    d_real, d_fake = torch.sigmoid(model.discriminate(x)), torch.sigmoid(model.discriminate(fake))
    torch.testing.assert_close(value, d_real.log().mean() + (1 - d_fake).log().mean())
    torch.manual_seed(3)
    torch.testing.assert_close(model.generator_loss(16), (1 - d_fake).log().mean())
    model.objective = "non-saturating"
    torch.manual_seed(3)
    torch.testing.assert_close(model.generator_loss(16), -d_fake.log().mean())


def test_a_discriminator_that_cannot_tell_gives_two_log_two() -> None:
    model = gan()
    nn.init.zeros_(model.network.encoder[-1].weight)
    nn.init.zeros_(model.network.encoder[-1].bias)
    assert model.discriminator_loss(data()).item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert model.generator_loss(8).item() == pytest.approx(math.log(2), rel=1e-6)


def test_the_other_objectives() -> None:
    x = data(16).double()
    for objective, real, fake in (
        ("wgan", lambda score: -score, lambda score: score),
        ("sn-gan", lambda score: (1 - score).clamp(min=0), lambda score: (1 + score).clamp(min=0)),
    ):
        model = gan(objective=objective).double().eval()  # a layer's singular value is estimated anew in training
        torch.manual_seed(3)
        value = model.discriminator_loss(x)
        torch.manual_seed(3)
        of_x, of_fake = model.discriminate(x), model.discriminate(model.generate(model.latents(16)))
        torch.testing.assert_close(value, real(of_x).mean() + fake(of_fake).mean())
        torch.manual_seed(3)
        torch.testing.assert_close(model.generator_loss(16), -of_fake.mean())


def test_the_gradient_penalty_of_a_linear_critic_is_that_of_its_weights() -> None:
    model = gan(network=Plain(), prior=trip(features=2), objective="wgan-gp", penalty=7.0).double()
    linear = nn.Linear(2, 1).double()
    model.network.encoder = linear
    x, fake = torch.rand(2, 5, 2, dtype=torch.float64)
    expected = (linear.weight.norm() - 1) ** 2
    torch.testing.assert_close(model.gradient_penalty(x, fake), expected)
    torch.manual_seed(1)
    with_penalty = model.discriminator_loss(x)
    model.objective = "wgan"
    torch.manual_seed(1)
    torch.testing.assert_close(with_penalty, model.discriminator_loss(x) + 7 * expected)


def test_the_gradient_penalty_holds_the_critic_to_slope_one() -> None:
    # between two far points the best critic has slope 1; without a penalty it grows without bound
    torch.manual_seed(0)
    prior = TRIP(features=2, components=1, rank=1, deviation=0.05, learnable=False)
    model = GAN(Plain(), prior, objective="wgan-gp", learning_rate=1e-2, betas=(0.0, 0.999))
    x = torch.tensor([0.9, 0.9]).expand(2048, 2)
    optimiser = model.configure_optimizers()[1]
    for _ in range(400):
        optimiser.zero_grad()
        model.discriminator_loss(x[:64]).backward()
        optimiser.step()
    points = torch.lerp(torch.tensor(0.5), x[:9], torch.linspace(0, 1, 9)[:, None]).requires_grad_()
    (slope,) = torch.autograd.grad(model.discriminate(points).sum(), points)
    assert (slope.norm(dim=1) - 1).abs().max() < 0.3


def test_weights_of_a_wgan_are_clipped() -> None:
    model = gan(objective="wgan", clip=0.02)
    fit(model, data())
    largest = [p.detach().abs().max().item() for p in model.network.encoder.parameters()]
    assert max(largest) == pytest.approx(0.02)
    assert max(p.detach().abs().max() for p in model.network.decoder.parameters()) > 0.02


def test_layers_of_an_sn_gan_have_no_larger_singular_value_than_one() -> None:
    model = gan(objective="sn-gan")
    fit(model, data(), epochs=30)
    model.eval()
    layers = [layer for layer in model.network.encoder.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(layers) == 3
    for layer in layers:
        weight = layer.weight.detach().flatten(1)
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("objective", ["non-saturating", "minimax", "wgan", "wgan-gp", "sn-gan"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_reach_every_parameter_of_generator_and_prior(objective: Any, estimator: Any) -> None:
    model = gan(objective=objective, estimator=estimator).double()
    model.generator_loss(64).backward()
    learned = dict(model.prior.named_parameters())
    assert {"means", "log_deviations"} <= learned.keys()
    assert any("cores" in name for name in learned)
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is not None for p in model.network.decoder.parameters())


@pytest.mark.parametrize("objective", ["non-saturating", "wgan"])
def test_all_estimators_have_the_same_expectation(objective: Any) -> None:
    """Gradients of 400 batches each: 6 standard errors, false alarms below 1e-6 over 76 numbers.

    The baseline of equation 10 is the batch's own mean, by which scores are 255/256 of the gradient.
    """
    torch.manual_seed(0)
    means, errors = {}, {}
    model = gan(trip(deviation=0.6), objective=objective, network=Smooth()).double()
    scored = torch.cat(
        [torch.full((p.numel(),), "cores" in name) for name, p in model.prior.named_parameters() if p.requires_grad]
    )
    for model.estimator in ESTIMATORS:
        drawn = []
        for _ in range(400):
            model.zero_grad()
            model.generator_loss(256).backward()
            drawn.append(torch.cat([p.grad.flatten() for p in model.prior.parameters() if p.grad is not None]))
        gradients = torch.stack(drawn)
        means[model.estimator], errors[model.estimator] = gradients.mean(0), gradients.std(0) / 20
    means["score-function"] *= 256 / 255
    means["hybrid"][scored] *= 256 / 255
    for other in ("score-function", "hybrid"):
        error = (errors["pathwise"] ** 2 + errors[other] ** 2).sqrt()
        assert ((means["pathwise"] - means[other]).abs() <= 6 * error + 1e-12).all(), other
    assert (means["pathwise"].abs() > 20 * errors["pathwise"]).sum() >= 10  # there is a gradient to agree on
    # and scores are the noisiest by far
    for other in ("pathwise", "hybrid"):
        assert errors["score-function"].square().sum() > 2 * errors[other].square().sum(), other
    assert errors["score-function"].square().sum() > 5 * errors["pathwise"].square().sum()


def test_the_hybrid_is_less_noisy_where_gaussians_lie_apart() -> None:
    """A path from one cluster to another leads through where there is hardly any density."""
    torch.manual_seed(0)
    model = gan(trip(rank=3, deviation=0.1), network=Smooth()).double()
    found = model.gradient_variances(200)
    assert 20 * found["hybrid"] < min(found["pathwise"], found["score-function"])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("prior", [lambda: GaussianMixture(4, 3), lambda: StandardNormal(4)])
def test_other_priors_take_every_estimator(estimator: Any, prior: Any) -> None:
    torch.manual_seed(0)
    model = gan(prior(), estimator=estimator)
    before = state(model.prior)
    fit(model, data(16))
    assert all(not torch.equal(before[name], value) for name, value in model.prior.named_parameters())


def test_the_score_function_estimator_is_equation_10() -> None:
    model = gan(objective="minimax", estimator="score-function").double().eval()
    torch.manual_seed(4)
    loss = model.generator_loss(6)
    loss.backward()
    torch.manual_seed(4)
    with torch.no_grad():
        z = model.latents(6)
        d = torch.log(1 - torch.sigmoid(model.discriminate(model.generate(z))))
    torch.testing.assert_close(loss.detach(), d.mean())
    learned = list(model.prior.parameters())
    expected = torch.autograd.grad((model.prior().log_prob(z) * (d - d.mean())).sum() / 6, learned)
    for parameter, gradient in zip(learned, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_variances_of_all_estimators() -> None:
    """Against those of the gradients themselves, drawn from the same seed."""
    model = gan(trip(labels=[3]), network=Smooth()).double()  # labels' parameters have no part in it
    before, training = state(model), model.training
    torch.manual_seed(2)
    found = model.gradient_variances(30, count=16)
    assert all(torch.equal(before[name], value) for name, value in state(model).items())
    assert (model.training, model.estimator) == (training, "hybrid")
    torch.manual_seed(2)
    for model.estimator in ESTIMATORS:
        drawn = []
        for _ in range(30):
            model.zero_grad()
            model.generator_loss(16).backward()
            drawn.append(torch.cat([p.grad.flatten() for p in model.prior.parameters() if p.grad is not None]))
        assert found[model.estimator] == pytest.approx(torch.stack(drawn).var(0).sum().item())
    assert found["score-function"] > found["pathwise"] > 0
    assert list(gan(MixtureWithoutGradients()).gradient_variances(2)) == ["score-function"]
    assert gan(trip(learnable=False)).gradient_variances(2) == {}
    embedded = ConditionalGAN(GANConv(SHAPE, 4, outputs=4), LabelEmbedding(4, [3], 2), [3])  # which has no density
    assert list(embedded.gradient_variances(2)) == ["pathwise", "hybrid"]


def test_variances_are_logged_and_change_nothing() -> None:
    states = []
    for drawn in (0, 2):
        torch.manual_seed(0)
        model = gan(gradient_batches=drawn)
        trainer = fit(model, data(), epochs=2, callbacks=[SeedEpochs(0)])
        states.append(state(model))
        logged = {name for name in trainer.callback_metrics if name.startswith("gradient_variance")}
        assert logged == ({f"gradient_variance_{name}" for name in ESTIMATORS} if drawn else set())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


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
    assert not torch.equal(before["network.decoder.1.weight"], model.network.decoder[1].weight)
    assert model.sample(3).shape == (3, *SHAPE)


def test_the_score_function_learns_a_prior_without_pathwise_gradients() -> None:
    prior = MixtureWithoutGradients()
    fit(gan(prior, estimator="score-function"), data())
    assert (prior.mean != 0).any()


def test_two_time_scales() -> None:
    generator, discriminator = gan(learning_rate=1e-4, discriminator_learning_rate=4e-4).configure_optimizers()
    assert [group["lr"] for group in generator.param_groups] == [1e-4, 1e-3]
    assert [group["lr"] for group in discriminator.param_groups] == [4e-4]
    assert gan(learning_rate=1e-4).configure_optimizers()[1].param_groups[0]["lr"] == 1e-4


def test_the_average_of_generator_and_prior_is_what_is_left_at_the_end() -> None:
    torch.manual_seed(0)
    model = gan(averaging=0.6)
    seen: list[dict[str, Tensor]] = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(state(pl_module))

    start = state(model)
    fit(model, data(64), callbacks=[Watch()])
    assert len(seen) == 4
    expected, last = start["network.decoder.1.weight"], seen[-1]["network.decoder.1.weight"]
    for step, now in enumerate(seen):
        keep = min(0.6, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * now["network.decoder.1.weight"]
    after = state(model)
    torch.testing.assert_close(after["network.decoder.1.weight"], expected)
    assert not torch.equal(expected, last)
    assert torch.equal(after["prior.order"], start["prior.order"])  # whole numbers are not averaged
    # the discriminator is as training left it
    assert torch.equal(after["network.encoder.0.weight"], seen[-1]["network.encoder.0.weight"])


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


@pytest.mark.parametrize(
    "arguments",
    [{}, {"objective": "wgan-gp", "averaging": 0.9, "estimator": "score-function"}, {"objective": "sn-gan"}],
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, arguments: dict[str, Any]) -> None:
    x = data(40)

    def run(folder: Path, epochs: int, resume: bool) -> dict[str, Tensor]:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model, checkpoint = gan(discriminator_steps=2, **arguments), folder / "last.ckpt"
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


class Smooth(nn.Module):
    """Players without kinks, from 4 latents."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.decoder = nn.Linear(4, 4)


def test_pathwise_gradients_carry_the_mean_of_the_prior_to_the_data() -> None:
    # in logits, data are N((1.5, -1), 0.5^2) and the prior starts as N(0, 0.5^2)
    torch.manual_seed(0)
    target = torch.tensor([1.5, -1.0])
    prior = TRIP(features=2, components=1, rank=1, deviation=0.5)
    model = GAN(Plain(), prior, learning_rate=1e-2, prior_learning_rate=1e-2, betas=(0.0, 0.999))
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
        ({"objective": "hinge"}, "objective must be one of minimax, non-saturating, wgan, wgan-gp, sn-gan"),
        ({"estimator": "reinforce"}, "estimator must be"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
        ({"averaging": 1.0}, "averaging must be"),
        ({"gradient_batches": 1}, "gradient_batches must be 0, or at least 2"),
        ({"discriminator_learning_rate": 0.0}, "discriminator_learning_rate must be positive"),
        ({"discriminator_steps": 0}, "discriminator_steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"prior_learning_rate": -1.0}, "prior_learning_rate must be positive"),
        ({"betas": (1.0, 0.9)}, "betas must be two numbers"),
        ({"betas": (0.5,)}, "betas must be two numbers"),
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
    with pytest.raises(UserError, match="GAN: objective must be"):
        build_model({**config, "model": {**config["model"], "objective": "x"}}, PluginHost(strict=True))
