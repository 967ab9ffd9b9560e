"""RAE, WAE and CV-VAE: what their losses are, and that they learn."""

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from tn_core import protocols
from tn_core.training import VALIDATION, Items, batches
from tn_priors import FullGaussianMixture, GaussianMixture, StandardNormal
from tn_vae import CVVAE, MLP, RAE, WAE
from tn_vae.wae import SCALES, multiquadratic_discrepancy

SHAPE = (1, 2, 2)


def pair(features=2):
    torch.manual_seed(0)
    return MLP(SHAPE, features, outputs=features, hidden=(32,))


MODELS = {
    "l2": lambda: RAE(pair(), FullGaussianMixture(2, 2)),
    "gradient": lambda: RAE(pair(), GaussianMixture(2, 2), "gradient", decoder_weight=1e-4),
    "spectral": lambda: RAE(pair(), FullGaussianMixture(2, 2), "spectral"),
    "wae": lambda: WAE(pair(), StandardNormal(2), discrepancy_weight=1.0),
    "cvvae": lambda: CVVAE(pair(), StandardNormal(2), likelihood="gaussian", deviation=0.2),
}


def striped(items=512):
    """Images of two kinds, upper or lower half bright, and their kind."""
    torch.manual_seed(1)
    y = torch.randint(2, (items, 1))
    x = torch.rand(items, *SHAPE) * 0.2
    x[torch.arange(items), 0, y[:, 0]] += 0.7
    return x, y


def train(m, epochs=20):
    seed_everything(0, verbose=False)
    items = Items(*striped())
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(m, batches(items, 64, 0), batches(items, 64, 0))
    assert trainer.callback_metrics[VALIDATION].isfinite()
    return m.eval()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_training_reconstructs_and_samples(name):
    with torch.enable_grad():
        m = train(MODELS[name]())
    x, _ = striped()
    assert (m.reconstruct(x) - x).square().mean() < 0.3 * x.var(0).mean()
    torch.manual_seed(0)
    drawn = m.sample(500)
    assert drawn.shape == (500, *SHAPE)
    # half of them are of either kind: brighter above or below, by 0.7 in the mean
    up = (drawn[:, 0, 0] - drawn[:, 0, 1]).mean(-1)
    assert 0.2 < (up > 0).double().mean() < 0.8
    assert up.abs().mean() > 0.3
    assert isinstance(m, protocols.Samples)
    assert isinstance(m, protocols.Reconstructs)
    assert m.latents(x).shape == (512, 2)


def test_the_loss_of_a_regularised_autoencoder():
    x, z = striped(8)[0], torch.randn(8, 2).requires_grad_()
    m = RAE(pair(), FullGaussianMixture(2, 2), latent_weight=0.3, decoder_weight=0.01).eval()
    error = (torch.sigmoid(m.network.decoder(z)) - x).square().mean()
    weights = sum(w.square().sum() for w in m.network.decoder.parameters())
    torch.testing.assert_close(m.loss(x, z)[0], error + 0.15 * z.square().sum(1).mean() + 0.01 * weights)


def test_the_penalty_is_the_jacobian_s_norm():
    """The mean of 4,000 estimates within five standard errors."""
    m = RAE(pair(), FullGaussianMixture(2, 2), "gradient").double().eval()
    z = torch.randn(1, 2, dtype=torch.float64)
    whole = torch.autograd.functional.jacobian(lambda z: torch.sigmoid(m.network.decoder(z)), z)
    torch.manual_seed(0)
    drawn = torch.stack([m.jacobian(z.clone().requires_grad_()).detach() for _ in range(4000)])
    assert abs(drawn.mean() - whole.square().sum()) < 5 * drawn.std() / 4000**0.5


def test_layers_of_spectral_norm_one():
    m = train(RAE(pair(), FullGaussianMixture(2, 2), "spectral"), 5)
    layers = [layer for layer in m.network.decoder if isinstance(layer, nn.Linear)]
    assert len(layers) == 2
    for layer in layers:
        assert abs(torch.linalg.matrix_norm(layer.weight, 2) - 1) < 0.05


def test_the_discrepancy():
    """Zero in the mean between draws of one distribution, within five standard errors; and by its definition."""
    torch.manual_seed(0)
    found = torch.stack(
        [multiquadratic_discrepancy(*torch.randn(2, 20, 3).double(), torch.tensor(6.0)) for _ in range(2000)]
    )
    assert abs(found.mean()) < 5 * found.std() / 2000**0.5
    a, b = torch.randn(5, 3).double(), torch.randn(5, 3).double() + 1

    def kernel(x, y):
        return sum(6 * s / (6 * s + (x - y).square().sum()) for s in SCALES)

    pairs = [(i, j) for i in range(5) for j in range(5)]
    within = sum(kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs if i != j) / 20
    expected = within - 2 * sum(kernel(a[i], b[j]) for i, j in pairs) / 25
    torch.testing.assert_close(multiquadratic_discrepancy(a, b, torch.tensor(6.0).double()), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RAE(pair(), StandardNormal(2)), "method fit"),
        (lambda: RAE(pair(), FullGaussianMixture(2), "l1"), "l2"),
        (lambda: RAE(pair(), FullGaussianMixture(2), latent_weight=-1.0), "negative"),
        (lambda: WAE(pair(), StandardNormal(2), discrepancy_weight=-1.0), "negative"),
        (lambda: CVVAE(pair(), StandardNormal(2), posterior_deviation=0.0), "positive"),
        (lambda: CVVAE(pair(), StandardNormal(3)).elbo(striped(8)[0]), "the prior has 3"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
