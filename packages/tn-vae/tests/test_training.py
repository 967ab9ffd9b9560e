"""Training of the autoencoders: every one learns, draws its data, starts its prior again, keeps its best epoch."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from test_vae import SHAPE, make, striped, trainer

from tn_core.training import BestWeights, Decay, Items, SeedEpochs, batches, hold_out
from tn_priors import TRIP, GaussianMixture, StandardNormal, VampPrior
from tn_vae import CPVAE, HVAE, MLP, GatedMLP


def models():
    torch.manual_seed(0)

    def cp_vae(prior, count=None, **more):
        return CPVAE(GatedMLP(SHAPE, **CPVAE.network_size(2, prior, count), hidden=(16,)), prior, 2, count, **more)

    def hvae(prior):
        return HVAE(GatedMLP(SHAPE, **HVAE.network_size(2), hidden=(16,)), prior, 2, hidden=8)

    return {
        "VAE, VampPrior": make(VampPrior(SHAPE, 4)),
        "CPVAE": cp_vae(GaussianMixture(2, 3)),
        "CPVAE, relaxed": cp_vae(GaussianMixture(2, 3), straight_through=False),
        "CPVAE, VampPrior": cp_vae(VampPrior(SHAPE, 3, start="data")),
        "CPVAE, TRIP": cp_vae(TRIP(2, 3, 2), 3),
        "HVAE": hvae(StandardNormal(2)),
        "HVAE, VampPrior": hvae(VampPrior(SHAPE, 4)),
        "HVAE, TRIP": hvae(TRIP(2, 3, 2)),
    }


@pytest.mark.parametrize("name", list(models()))
def test_every_model_learns(name):
    model = models()[name].train()
    model.learning_rate, model.warmup_steps = 5e-3, 0
    x, y = striped()
    x = (x > 0.5).float()
    with torch.no_grad():
        start = model.elbo(x).mean()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    trainer(8).fit(model, batches(Items(x, y), 64, 0))
    model.eval()
    with torch.no_grad():
        assert model.elbo(x).mean() > start + 0.3
    still = [key for key, p in model.named_parameters() if torch.equal(p, before[key])]
    assert still == []
    assert model.sample(7).shape == (7, *SHAPE)
    assert model.reconstruct(x[:3]).shape == (3, *SHAPE)
    with pytest.raises(ValueError, match="no labels to condition on"):
        model.sample(7, torch.tensor([1]))


def two_kinds_found(seed):
    """A CP-VAE of two categories, trained on two kinds, if it found them and tells its own draws of each."""
    torch.manual_seed(seed)
    prior = GaussianMixture(2, 2, mean_scale=1.0)
    model = CPVAE(
        GatedMLP(SHAPE, **CPVAE.network_size(2, prior), hidden=(16,)), prior, 2, learning_rate=5e-3, warmup_steps=100
    )
    x, y = striped(1024)
    x = (x > 0.5).float()
    trainer(15).fit(model.train(), batches(Items(x, y), 64, seed))
    model.eval()
    right = (model.assign(x) == y[:, 0]).float().mean()
    told = [(model.assign(model.sample(200, cluster=k)) == k).float().mean() for k in range(2)]
    return (model, x) if max(right, 1 - right) > 0.95 and min(told) > 0.9 else None


def test_cp_vae_finds_two_kinds_and_draws_from_each():
    # every sixth start (4 of 24 seeds) ends in another optimum: four in a row do so less than once in a thousand
    found = next(filter(None, map(two_kinds_found, range(4))), None)
    assert found is not None
    model, x = found
    assert model.clusters == 2
    share = model.posteriors(x)[1].probs.mean(0)
    assert torch.allclose(model.shares, share, atol=0.05)  # of the last epoch, while the networks still learned
    model.shares.copy_(torch.tensor([1.0, 0.0]))
    assert (model.assign(model.sample(200)) == 0).float().mean() > 0.9
    uniform = (model.assign(model.sample(400, categories="prior")) == 0).float().mean()
    assert abs(uniform - 0.5) < 5 * 0.5 / 400**0.5 + 0.1


def test_categories_start_as_clusters_of_the_latents():
    torch.manual_seed(0)
    prior = GaussianMixture(2, 2, weights="uniform", mean_scale=0.05)
    network = GatedMLP(SHAPE, **CPVAE.network_size(2, prior), hidden=(16,))
    model = CPVAE(network, prior, 2, start_epochs=10, learning_rate=5e-3, warmup_steps=100)
    untrained = {name: p.clone() for name, p in model.state_dict().items()}
    x, y = striped(1024)
    x = (x > 0.5).float()
    run = trainer(10)
    seen = []
    start = model._start_categories

    def starts():
        assert model.posteriors(x)[1].probs.allclose(torch.tensor(0.5))  # they say nothing before
        seen.append(model._untrained)
        assert not torch.equal(model.given.gate.weight, untrained["given.gate.weight"])
        start()
        assert not run.optimizers[0].state

    model._start_categories = starts
    run.fit(model.train(), batches(Items(x, y), 64, 0))
    model.eval()
    assert all(torch.equal(value, untrained[name]) for name, value in seen[0].items())  # where all begins anew
    found = model.assign(x)
    right = (found == y[:, 0]).float().mean()
    assert max(right, 1 - right) > 0.95
    for k in range(2):
        assert (model.assign(model.sample(200, cluster=k)) == k).float().mean() > 0.9
    assert model.inferred == 1
    model.train()
    run.fit_loop.max_epochs = 12
    run.fit(model, batches(Items(x, y), 64, 0))  # and not again
    assert len(seen) == 1


def test_straight_through_decodes_one_hot_categories():
    model = models()["CPVAE"].train()
    seen = []
    original = model.log_likelihood
    model.log_likelihood = lambda x, code: seen.append(code) or original(x, code)
    x, _ = striped(16)
    trainer(1).fit(model, batches(Items(x, torch.zeros(16, 0, dtype=torch.long)), 8, 0))
    given = seen[0][..., 2:]
    assert ((given == 0) | ((given - 1).abs() < 1e-6)).all()


def test_the_temperature_falls():
    model = models()["CPVAE"]
    model.temperature, model.final_temperature, model.temperature_steps = 1.0, 0.25, 2
    assert model.softness == 1.0
    trainer(1).fit(model, batches(Items(*striped(64)), 64, 0))
    assert model.softness == pytest.approx(0.5)
    trainer(3).fit(model, batches(Items(*striped(64)), 64, 0))
    assert model.softness == pytest.approx(0.25)


@pytest.mark.parametrize(("how", "every", "expected"), [("random", 2, [0, 2]), ("fit", 3, [0, 3]), ("never", 1, [])])
def test_the_schedule_of_starting_the_prior_again(how, every, expected):
    prior = TRIP(3, 4, 5)
    model = make(prior, reinitialize=how, reinitialize_every=every).train()
    seen = []

    def start(z, y=None):
        seen.append(model.current_epoch)
        assert z.shape == (128, 3)
        with torch.no_grad():
            prior.means.zero_()

    prior.reinitialize = prior.fit = start
    x, y = striped(128)

    class Optimiser(SeedEpochs):
        def on_train_epoch_end(self, trainer, module):
            self.states.append(len(trainer.optimizers[0].state))

    callback = Optimiser(0)
    callback.states = []
    trainer(5, callback).fit(model, batches(Items(x, y), 64, 0))
    assert seen == expected  # not after the last epoch
    forgotten = trainer_state(model)
    assert forgotten == {"prior": len(list(prior.parameters())), "networks": len(list(model.network.parameters()))}


def trainer_state(model):
    """How many parameters the optimiser remembers anything of."""
    state = model.trainer.optimizers[0].state
    of_prior = {id(p) for p in model.prior.parameters()}
    return {
        "prior": sum(id(p) in of_prior for p in state),
        "networks": sum(id(p) not in of_prior for p in state),
    }


def test_data_are_drawn_anew_every_epoch_the_same_in_every_run():
    torch.manual_seed(0)
    grey = torch.randint(256, (50, 40), dtype=torch.uint8)

    def epoch(number):
        items = Items(grey, torch.arange(50).unsqueeze(1), dynamic=True)
        loader = batches(items, 20, seed=3)
        loader.sampler.set_epoch(number)
        torch.rand(number + 1)  # what else is drawn does not matter
        found = [(x, y) for x, y in loader]
        x, y = (torch.cat(part) for part in zip(*found, strict=True))
        return x[y.flatten().argsort()]

    epochs = torch.stack([epoch(k) for k in range(400)])
    assert set(epochs.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(epochs[7], epoch(7))
    assert not torch.equal(epochs[7], epochs[8])
    # frequencies are the grey values: 2,000 pixels within five standard errors
    p = grey.float() / 255
    error = (p * (1 - p) / 400).sqrt()
    assert ((epochs.mean(0) - p).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("dynamic", [False, True])
def test_held_out_items(dynamic):
    x = torch.randint(256, (30, 5), dtype=torch.uint8)
    items = Items(x, torch.arange(30).unsqueeze(1), dynamic)
    kept, held = hold_out(items, 8, seed=1)
    assert (len(kept), len(held)) == (22, 8)
    assert sorted(torch.cat([kept.y, held.y]).flatten().tolist()) == list(range(30))
    assert (kept.dynamic, held.dynamic) == (dynamic, False)
    assert torch.equal(kept.x, x[kept.y[:, 0]])
    if dynamic:  # drawn once
        assert set(held.x.unique().tolist()) == {0, 255}
        assert torch.equal(held.x, hold_out(items, 8, seed=1)[1].x)
    else:
        assert torch.equal(held.x, x[held.y[:, 0]])
    assert not torch.equal(hold_out(items, 8, seed=2)[1].y, held.y)


def test_learning_rates_fall_at_the_end():
    model = models()["HVAE"].train()
    model.learning_rate, model.prior_learning_rate = 0.5, 0.5
    rates = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.extend(group["lr"] for group in optimizer.param_groups)

    trainer(4, Decay(0.5), Rates()).fit(model, batches(Items(*striped(64)), 32, 0))
    assert rates == pytest.approx([0.5] * 5 + [0.5 * (1 - k / 4) for k in (1, 2, 3)])


def test_the_best_epoch_is_kept(tmp_path):
    x, y = striped(128)
    model = make(StandardNormal(3)).train()
    scores = iter([1.0, 3.0, 2.0])
    weights = []

    def validation_step(batch, index=0):
        weights.append({name: p.clone() for name, p in model.state_dict().items()})
        model.log("validation_elbo", next(scores))

    model.validation_step = validation_step
    run = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[BestWeights(tmp_path)],
    )
    held = batches(Items(x, y), 128, 0)
    run.fit(model, batches(Items(x, y), 64, 0), held)
    assert all(torch.equal(p, weights[1][name]) for name, p in model.state_dict().items())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CPVAE(MLP(SHAPE, 5, 7), StandardNormal(2), 2), "categories must be at least 1, got None"),
        (lambda: CPVAE(MLP(SHAPE, 5, 7), GaussianMixture(2, 3), 2, 4), "categories is 4, but the prior has 3"),
        (lambda: CPVAE(MLP(SHAPE, 5, 7), GaussianMixture(2, 3), 2, start_epochs=-1), "start_epochs must not be neg"),
        (lambda: CPVAE(MLP(SHAPE, 5, 7), StandardNormal(2), 2, 3, start_epochs=1), "needs a prior GaussianMixture"),
        (lambda: CPVAE(MLP(SHAPE, 5, 7), GaussianMixture(2, 3), 2, temperature=0), "temperature must be positive"),
        (
            lambda: CPVAE(MLP(SHAPE, 5), GaussianMixture(2, 3), 2).elbo(striped(2)[0]),
            r"\+ 3 numbers, it gives 10",
        ),
        (lambda: HVAE(MLP(SHAPE, 4), StandardNormal(2), 2, hidden=0), "hidden must be at least 1"),
        (lambda: HVAE(MLP(SHAPE, 2), StandardNormal(2), 2).elbo(striped(2)[0]), r"4 \* 2 numbers, it gives 4"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()
