"""The VAE: bounds against quadrature, objectives, training with every prior, conditional use, storage."""

import math
from itertools import product

import pytest
import torch
import zuko
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch import nn
from torch.distributions import Normal

from tn_core.components import build
from tn_core.plugins import PluginHost
from tn_core.storage import describe, load_model, save_model
from tn_core.training import DataOnDevice, Items, SeedEpochs, batches
from tn_priors import TRIP, TTLP, Continuous, Flow, GaussianMixture, StandardNormal
from tn_vae import MLP, VAE

SHAPE = (1, 2, 2)


def make(prior, features=3, **more):
    torch.manual_seed(0)
    return VAE(MLP(SHAPE, features, hidden=(16,)), prior, **more).eval()


def trainer(epochs=1, *callbacks, accelerator="cpu"):
    return Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def striped(items=512):
    """Images of two kinds, upper or lower half bright, and their label."""
    torch.manual_seed(1)
    y = torch.randint(2, (items, 1))
    x = torch.rand(items, *SHAPE) * 0.2
    x[torch.arange(items), 0, y[:, 0]] += 0.7
    return x, y


def log_evidence(model, x, y=None):
    """log p(x, y) of a model with one latent, by quadrature over it in float64."""
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64).unsqueeze(-1)
    values = model.log_likelihood(x, z.unsqueeze(1).expand(-1, len(x), -1))
    joint = model.log_joint(z, None if y is None else y.expand(len(z), -1)).unsqueeze(-1)
    step = float(z[1] - z[0])
    return (values + joint).logsumexp(0) + math.log(step)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("boundary", ["ring", "train"])
@pytest.mark.parametrize("label", [None, -1, 2])
def test_bounds_against_the_evidence(likelihood, boundary, label):
    torch.manual_seed(0)
    model = make(TRIP(1, 5, 4, labels=[3], boundary=boundary), 1, likelihood=likelihood, deviation=0.5).double()
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    y = None if label is None else torch.tensor([label])
    with torch.no_grad():
        exact = log_evidence(model, x, y)
        rows = None if y is None else y.expand(2, -1)
        many, labels = x.repeat(2000, 1, 1, 1), None if y is None else y.expand(4000, -1)
        elbo = model.elbo(many, labels).reshape(2000, 2).mean(0)
        bounds = [model.iwae(many, labels, samples=k).reshape(2000, 2).mean(0) for k in (1, 10, 50)]
        tight = model.iwae(x, rows, samples=100_000)
    assert torch.allclose(tight, exact, atol=0.05)
    # a bound of one sample is the lower bound; more samples tighten it; none passes the evidence.
    # Slack: standard errors are below 0.02 here.
    assert torch.allclose(elbo, bounds[0], atol=0.1)
    assert (bounds[0] < bounds[1] + 0.02).all()
    assert (bounds[1] < bounds[2] + 0.02).all()
    assert (bounds[2] < exact + 0.02).all()
    assert (elbo < exact + 0.02).all()


def test_likelihoods_are_normalised():
    model = make(StandardNormal(3)).double()
    z = torch.randn(5, 3, dtype=torch.float64)
    every = torch.tensor(list(product([0.0, 1.0], repeat=4)), dtype=torch.float64).reshape(-1, 1, *SHAPE)
    log_p = torch.stack([model.log_likelihood(x.expand(5, *SHAPE), z) for x in every])
    assert torch.allclose(log_p.exp().sum(0), torch.ones(5, dtype=torch.float64))

    model = make(StandardNormal(3), likelihood="gaussian", deviation=0.3).double()
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    expected = Normal(model.decode(z), 0.3).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(model.log_likelihood(x, z), expected)


def test_the_objective_is_that_of_both_papers():
    """VAE-TTLP eq. 6, log p(z | y) + log p(y), equals TRIP eq. 14, log p(z) + log p(y | z)."""
    prior = TRIP(3, 4, 5, labels=[2, 3]).double()
    model = make(prior).double()
    z = torch.randn(4, 3, dtype=torch.float64)
    y = torch.tensor([[0, 2], [1, -1], [-1, 0], [-1, -1]])
    ttlp = prior(y).log_prob(z) + prior.log_prob_labels(y)
    p = [q.clamp_min(1e-300).log() for q in prior.label_posteriors(z)]
    assert torch.allclose(model.log_joint(z, y), ttlp)
    # rows with at most one known label: log p(y | z) is its posterior
    assert torch.allclose(model.log_joint(z, y)[1], prior().log_prob(z)[1] + p[0][1, 1])
    assert torch.allclose(model.log_joint(z, y)[2], prior().log_prob(z)[2] + p[1][2, 0])
    assert torch.allclose(model.log_joint(z, y)[3], prior().log_prob(z)[3])


@pytest.mark.parametrize("weight", [0.0, 3.0])
@pytest.mark.parametrize("guesses", [False, True])
def test_the_loss_is_the_bound_and_the_label_term(weight, guesses):
    model = make(TRIP(3, 4, 5, labels=[2, 3]), label_weight=weight, confidence=1, warmup_steps=0)
    model.log = model.log_dict = lambda *_, **__: None  # no trainer here
    x, y = striped(64)
    y = torch.cat([y, y], 1)
    y[:32, 0], y[16:, 1] = -1, -1
    model.seen.fill_(True)
    posteriors = model.prior.label_posteriors(model.encode(x), y)
    unknown = torch.cat([p.amax(-1)[v < 0] for p, v in zip(posteriors, y.unbind(1), strict=True)])
    assert len(unknown) == 32 + 48
    if guesses:
        model.confidence = unknown.median().item()
    torch.manual_seed(5)
    loss = model.training_step((x, y), 0)
    torch.manual_seed(5)
    bound = model.elbo(x, y).mean()
    torch.manual_seed(5)
    z = model.posterior(x).rsample()
    label = (model.log_joint(z, y) - model.prior().log_prob(z)).sum() / (48 / 2)
    sure = y.clone()
    for i, j in (y < 0).nonzero().tolist():
        if guesses and posteriors[j][i].max() >= model.confidence:
            sure[i, j] = posteriors[j][i].argmax()
    label = label + (model.log_joint(z, sure) - model.log_joint(z, y)).mean()
    assert torch.allclose(loss, -bound - weight * label, atol=1e-5)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("value", [-1, 1])
def test_batches_without_and_with_all_labels(flow, value):
    """No row is left for a part of the label term: zuko's flows take no empty batch."""
    prior = TRIP(3, 4, 5, labels=[2])
    model = make(Flow(3, prior, transforms=1) if flow else prior, warmup_steps=0)
    loss, found = model.objective(striped(64)[0], torch.full((64, 1), value))
    assert torch.allclose(loss, -found["elbo"] - 3 * found["log_p_labels"])
    assert (found["log_p_labels"] == 0) == (value < 0)
    assert found["log_p_guessed"] == 0
    loss.backward()


def test_continuous_labels_train():
    model = make(TRIP(3, 4, 5, labels=[2, Continuous(4, -2, 2)]), confidence=0.5, warmup_steps=0)
    x, y = striped(64)
    y = torch.cat([y.float(), torch.randn(64, 1)], 1)
    y[::2, 0], y[1::4, 1] = -1, torch.nan
    assert model._known(y).sum(0).tolist() == [32, 48]
    assert torch.equal(model._with_sure_labels(model.encode(x), y)[:, 0], y[:, 0])  # nothing was learned of it yet
    model.seen[0] = True
    sure = model._with_sure_labels(model.encode(x), y)
    assert torch.equal(sure[:, 1].isnan(), y[:, 1].isnan())
    assert (sure[::2, 0] >= 0).all()
    assert torch.equal(sure[1::2, 0], y[1::2, 0])
    loss, _ = model.objective(x, y)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("flow", [False, True])
def test_continuous_labels_are_imputed_by_mean_and_deviation(flow):
    """Against an integral of the joint density over a grid."""
    prior = TRIP(3, 4, 5, labels=[2, Continuous(4, -2, 6)])
    model = make(Flow(3, prior, transforms=1) if flow else prior).double()
    x, y = torch.rand(3, *SHAPE, dtype=torch.float64), torch.tensor([[1, torch.nan]] * 3, dtype=torch.float64)
    p, moments = model.impute(x, y)
    assert p.shape == (3, 2)
    values = torch.linspace(-40, 44, 20_001, dtype=torch.float64)
    z = model.encode(x)
    for row in range(3):
        labels = torch.stack([torch.ones_like(values), values], 1)
        density = model.prior.log_prob_joint(z[row].expand(len(values), 3), labels).exp()
        mean = (density * values).sum() / density.sum()
        deviation = ((density * (values - mean) ** 2).sum() / density.sum()).sqrt()
        torch.testing.assert_close(moments[row], torch.stack([mean, deviation]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "prior",
    [
        lambda: StandardNormal(3),
        lambda: GaussianMixture(3, 4),
        lambda: TRIP(3, 4, 5),
        lambda: TRIP(3, 4, 5, labels=[2]),
        lambda: TTLP(3, 4, 5, labels=[2]),
        lambda: Flow(3, TRIP(3, 4, 5, labels=[2]), transforms=1),
        lambda: TRIP(3, 4, 5, labels=[2], learnable=False),
        lambda: zuko.flows.NSF(3, transforms=1),
        lambda: zuko.mixtures.GMM(3, components=2),
    ],
)
def test_any_prior_trains_and_samples(prior):
    model = make(prior(), warmup_steps=0).train()
    x, y = striped()
    y[::2] = -1
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        start = model.elbo(x).mean()
    trainer(8).fit(model, batches(Items(x, y), 64, 0))
    model.eval()
    with torch.no_grad():
        assert model.elbo(x).mean() > start + 0.1
    for name, p in model.named_parameters():
        assert bool((p != before[name]).any()) == p.requires_grad, name
    assert model.sample(7).shape == (7, *SHAPE)
    assert model.reconstruct(x[:3]).shape == (3, *SHAPE)


def test_missing_labels_are_learned_imputed_and_asked_for():
    """70 % hidden labels of an easy problem: imputed and generated almost without error."""
    model = make(TRIP(3, 5, 8, labels=[2]), warmup_steps=0).train()
    x, truth = striped(2048)
    y = truth.masked_fill(torch.rand(truth.shape) < 0.7, -1)
    trainer(8).fit(model, batches(Items(x, y), 64, 0))
    model.eval()
    imputed = model.impute(x)[0]
    assert torch.allclose(imputed.sum(-1), torch.ones(len(x)), atol=1e-4)
    assert (imputed.argmax(-1) == truth[:, 0]).float().mean() > 0.95
    asked = torch.arange(2).repeat_interleave(100).unsqueeze(1)
    drawn = model.sample(200, asked)
    seen = (drawn[:, 0, 1].mean(-1) > drawn[:, 0, 0].mean(-1)).long()
    assert (seen == asked[:, 0]).float().mean() > 0.9
    one = model.sample(50, torch.tensor([1]))
    assert (one[:, 0, 1].mean(-1) > one[:, 0, 0].mean(-1)).float().mean() > 0.9
    allowed = model.sample(50, [torch.tensor([False, True])])
    assert (allowed[:, 0, 1].mean(-1) > allowed[:, 0, 0].mean(-1)).float().mean() > 0.9


def test_pretrained_variant_fits_the_prior_afterwards():
    prior = TRIP(3, 4, 5, labels=[2])
    model = make(prior, fit_prior="afterwards").train()
    x, y = striped()
    before = {name: p.detach().clone() for name, p in prior.named_parameters()}
    seen = {}
    original = prior.fit

    def fit(z, labels):
        # nothing touched the prior while the networks were trained
        assert all(torch.equal(p, before[name]) for name, p in prior.named_parameters())
        seen["before"] = prior().log_prob(z).mean().item()
        original(z, labels, steps=50)
        seen["after"] = prior().log_prob(z).mean().item()

    prior.fit = fit
    trainer(3, SeedEpochs(0)).fit(model, batches(Items(x, y), 64, 0))
    assert seen["after"] > seen["before"] + 0.1


def test_the_prior_alone_goes_on_after_the_last_epoch():
    x, y = striped(512)
    y[128:] = -1

    def trained(final_steps):
        torch.manual_seed(0)
        model = make(TRIP(3, 4, 5, labels=[2]), final_steps=final_steps).train()
        trainer(6, SeedEpochs(0)).fit(model, batches(Items(x, y), 64, 0))
        return model.eval()

    model, later = trained(0), trained(200)
    assert all(torch.equal(a, b) for a, b in zip(model.network.parameters(), later.network.parameters(), strict=True))
    z = model.latents_of([striped(512)[0]])[0]
    gain = later.prior().log_prob(z) - model.prior().log_prob(z)
    assert gain.mean() > 3 * gain.std() / 512**0.5 + 0.05
    _, truth = striped(512)
    right = [(m.impute(x)[0].argmax(-1) == truth[:, 0]).float().mean() for m in (model, later)]
    assert right[1] > right[0] - 0.02


@pytest.mark.parametrize("fits", [{"final_steps": 1}, {"reinitialize": "fit"}, {"fit_prior": "afterwards"}])
def test_too_few_items_for_a_fit_are_said_before_training(fits):
    model = make(GaussianMixture(3, components=100), **fits).train()
    with pytest.raises(ValueError, match="at least 100 training items, there are 64"):
        trainer(3).fit(model, batches(Items(*striped(64)), 32, 0))
    assert model.global_step == 0
    trainer(1).fit(make(GaussianMixture(3, components=100)).train(), batches(Items(*striped(64)), 32, 0))


@pytest.mark.parametrize("better", [True, False])
def test_the_final_steps_keep_what_ends_better_from_training_or_from_a_fit(better):
    x, y = striped(512)
    y[128:] = -1
    torch.manual_seed(0)
    prior = TRIP(3, 4, 5, labels=[2], start="random")
    model = make(prior, final_steps=1, prior_learning_rate=0.0).train()  # what training leaves is where it started
    before = {name: p.detach().clone() for name, p in prior.named_parameters()}
    fitted = {}
    original = prior.fit

    def fit(z, labels):
        if better:
            original(z, labels, steps=0)
        else:
            with torch.no_grad():
                prior.means.add_(10.0)
        fitted.update({name: p.detach().clone() for name, p in prior.named_parameters()})

    prior.fit = fit
    trainer(3, SeedEpochs(0)).fit(model, batches(Items(x, y), 64, 0))
    kept = fitted if better else before
    assert any((fitted[name] - before[name]).abs().max() > 0.1 for name in before)
    for name, p in prior.named_parameters():  # one step of Adam moves a number by no more than its rate
        assert torch.allclose(p, kept[name], atol=0.031, rtol=0), name


def test_batches_are_put_together_where_the_data_lie():
    """The same batches as ever; on a device nothing but tensors of that device."""
    items = Items(torch.randint(256, (10, 2), dtype=torch.uint8), torch.arange(10).unsqueeze(1))
    before = list(batches(items, 4, seed=3))
    model = nn.Linear(1, 1)
    model.device = torch.device("cpu")
    DataOnDevice(items).on_fit_start(None, model)
    after = list(batches(items, 4, seed=3))
    assert [len(x) for x, _ in after] == [4, 4, 2]
    assert torch.cat([y for _, y in after]).flatten().sort().values.tolist() == list(range(10))
    for one, other in zip(before, after, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    model.device = torch.device("meta")  # a device without memory: any copy back would fail
    DataOnDevice(items).on_fit_start(None, model)
    assert {t.device.type for batch in batches(items, 4, seed=3) for t in batch} == {"meta"}


def test_batches_without_labels():
    model = make(TRIP(3, 4, 5)).train()
    x, _ = striped(64)
    trainer().fit(model, torch.utils.data.DataLoader(x, batch_size=16))


def test_latents_far_away_stay_finite():
    """An encoder that says 1e6 gives finite losses and gradients."""

    class Far(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1e6))

        def forward(self, x):
            return self.scale * torch.ones(len(x), 6)

    model = make(TRIP(3, 4, 5))
    model.network.encoder = Far()
    x, _ = striped(8)
    loss = -model.elbo(x).mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood"),
        ({"fit_prior": "never"}, "fit_prior"),
        ({"deviation": 0.0}, "deviation must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"label_weight": -1.0}, "label_weight must not be negative"),
        ({"confidence": 90.0}, "confidence must be from 0 to 1, got 90"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"prior": zuko.flows.NSF(3), "fit_prior": "afterwards"}, "needs a prior with a method fit"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(**{"network": MLP(SHAPE, 3, hidden=(4,)), "prior": StandardNormal(3)} | arguments)


def test_the_completion_is_that_of_the_joint():
    """Of two labels, by enumeration of the bound's joint at the posterior's mean."""
    prior = TRIP(3, 4, 5, labels=[2, 3]).double()
    model = make(prior).double()
    x = torch.rand(6, *SHAPE, dtype=torch.float64)
    y = torch.tensor([[-1, -1], [1, -1], [-1, 2], [-1, -1], [0, 1], [-1, 0]])
    found, log_p = model.complete(x, y)
    z = model.encode(x)
    every = torch.tensor(list(product(range(2), range(3))))
    joint = torch.stack([prior.log_prob_joint(z, pair.expand(6, 2)) for pair in every], 1)
    fits = ((every == y.unsqueeze(1)) | (y.unsqueeze(1) < 0)).all(-1)
    joint = joint.masked_fill(~fits, -torch.inf).log_softmax(1)
    assert torch.equal(found, every[joint.argmax(1)])
    assert torch.allclose(log_p, joint.amax(1))


def test_use_errors():
    model = make(StandardNormal(3))
    with pytest.raises(ValueError, match="does not complete labels"):
        model.complete(torch.rand(2, *SHAPE))
    with pytest.raises(ValueError, match="no labels to condition on"):
        model.sample(3, torch.tensor([1]))
    with pytest.raises(ValueError, match="no labels to impute"):
        model.impute(torch.rand(2, *SHAPE))
    with pytest.raises(ValueError, match="samples must be at least 1"):
        model.iwae(torch.rand(2, *SHAPE), samples=0)
    with pytest.raises(ValueError, match="values 0 to 1"):
        make(TRIP(3, 4, 5, labels=[2])).sample(3, torch.tensor([2]))
    with pytest.raises(ValueError, match=r"5 latents.*3"):
        VAE(MLP(SHAPE, 5, hidden=(4,)), StandardNormal(3)).elbo(torch.rand(2, *SHAPE))


def test_saved_and_loaded(tmp_path):
    host = PluginHost()
    spec = {"name": "VAE", "network": {"name": "MLP", "hidden": [8]}, "prior": {"name": "TRIP", "rank": 3}}
    model = build(spec, "models", host, shape=SHAPE, features=3, labels=[2]).eval()
    config = describe(spec, {"name": "none"}, SHAPE, {"kind": ["a", "b"]}, features=3)
    save_model(model, config, tmp_path)
    again, _ = load_model(tmp_path, host)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    x = torch.rand(4, *SHAPE)
    assert torch.equal(model.encode(x), again.encode(x))
    assert torch.equal(model.impute(x)[0], again.impute(x)[0])
