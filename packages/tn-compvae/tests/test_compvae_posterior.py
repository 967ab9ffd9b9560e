"""The correlated posterior: against a dense normal, Monte Carlo, and itself with absent places."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from tn_compvae import PartsPosterior

FEATURES = 3


def posterior(parts: int, batch: tuple[int, ...] = (), present: Tensor | None = None) -> PartsPosterior:
    mean, raw, logits = torch.randn(3, *batch, parts, FEATURES, dtype=torch.float64)
    return PartsPosterior(mean, raw.exp(), logits, present)


def dense(q: PartsPosterior, feature: int) -> MultivariateNormal:
    """One coordinate of all parts, its covariance built from the definition."""
    rho, sigma = q.rho[:, feature], q.deviation[:, feature]
    turn = (torch.eye(len(rho), dtype=torch.float64) - rho.outer(torch.ones_like(rho))) @ sigma.diag()
    return MultivariateNormal(q.mean[:, feature], turn @ turn.T)


@pytest.mark.parametrize("parts", [1, 2, 5, 30])
def test_divergence_density_entropy_and_moments_are_those_of_a_dense_normal(parts: int) -> None:
    q = posterior(parts)
    p_mean, p_deviation = torch.randn(parts, FEATURES).double(), torch.rand(parts, FEATURES).double() + 0.2
    w = q.sample()
    full = [dense(q, j) for j in range(FEATURES)]
    priors = [MultivariateNormal(p_mean[:, j], p_deviation[:, j].square().diag()) for j in range(FEATURES)]
    close = {"rtol": 1e-9, "atol": 1e-9}
    expected = sum(kl_divergence(a, b) for a, b in zip(full, priors, strict=True))
    torch.testing.assert_close(q.divergence(p_mean, p_deviation), expected, **close)
    expected = sum(a.log_prob(w[:, j]) for j, a in enumerate(full))
    torch.testing.assert_close(q.log_prob(w), expected, **close)
    torch.testing.assert_close(q.entropy(), sum(a.entropy() for a in full), **close)
    torch.testing.assert_close(q.variance, torch.stack([a.variance for a in full], -1), **close)
    sums = torch.stack([a.covariance_matrix.sum() for a in full])
    torch.testing.assert_close(q.sum_variance, sums, **close)


def test_divergence_agrees_with_monte_carlo() -> None:
    q = posterior(4)
    p = Normal(torch.randn(4, FEATURES).double(), torch.full((4, FEATURES), 1.5).double())
    w = q.sample((200_000,))
    ratio = q.log_prob(w) - p.log_prob(w).sum((-2, -1))
    error = ratio.std() / math.sqrt(len(ratio))
    assert (ratio.mean() - q.divergence(p.mean, p.stddev)).abs() < 4 * error
    assert error < 0.02 * ratio.mean()


def test_samples_have_the_mean_and_covariance_they_should() -> None:
    q = posterior(4)
    w = q.sample((200_000,))
    for j in range(FEATURES):
        full = dense(q, j)
        # at most 4 standard errors in any entry
        scale = full.variance.sqrt()
        assert ((w[..., j].mean(0) - full.mean) / scale).abs().max() < 4 / math.sqrt(200_000)
        correlation_error = (w[..., j].T.cov() - full.covariance_matrix) / scale.outer(scale)
        assert correlation_error.abs().max() < 4 * math.sqrt(2 / 200_000)


def test_normals_that_are_told_their_sum_are_in_the_family() -> None:
    """Conditioned in closed form; their sum is observed with a deviation that tends to zero."""
    sigma = torch.tensor([2.0, 1e-3, 0.5]).double()
    covariance = sigma.square().diag() - sigma.square().outer(sigma.square()) / sigma.square().sum()
    q = PartsPosterior(torch.zeros(3, 1).double(), sigma.unsqueeze(1), torch.full((3, 1), 30.0).double())
    rho = q.rho[:, 0]
    turn = torch.eye(3).double() - rho.outer(torch.ones(3).double())
    torch.testing.assert_close(turn @ sigma.square().diag() @ turn.T, covariance)
    assert q.sum_variance < 1e-12


def test_with_equal_deviations_rho_is_a_softmax() -> None:
    logits = torch.randn(4, FEATURES).double()
    q = PartsPosterior(torch.zeros_like(logits), torch.full_like(logits, 0.3), logits)
    expected = torch.cat([logits, torch.zeros(1, FEATURES).double()]).softmax(0)
    torch.testing.assert_close(q.rho, expected[:-1])
    torch.testing.assert_close(q.log_rest.exp(), expected[-1])


@pytest.mark.parametrize("deviations", [[1.0] * 4, [1.0, 1e-3, 1.0, 0.2]])
def test_the_sum_can_be_certain_while_every_part_stays_wide(deviations: list[float]) -> None:
    sigma = torch.tensor(deviations).unsqueeze(1).expand(-1, FEATURES)
    q = PartsPosterior(torch.randn(4, FEATURES), sigma, torch.full((4, FEATURES), 10.0))  # 1 - sum rho is about 1e-5
    assert (q.sum_variance < 1e-6).all()
    assert (q.variance > 0.45 * sigma**2).all()
    # and so it is in float32 samples
    w = q.sample((10_000,))
    assert (w.sum(-2).var(0) < 1e-6).all()
    assert (w.var(0) > 0.4 * sigma**2).all()


def test_what_a_certain_sum_costs() -> None:
    """In closed form: half of log((1 - sum rho)^-2) + sum of the shrunk variances, a coordinate."""
    parts = 4
    logits = torch.full((parts, FEATURES), 10.0)
    q = PartsPosterior(torch.randn(parts, FEATURES), torch.ones(parts, FEATURES), logits)
    rest = 1 / (1 + parts * math.exp(10.0))
    rho = (1 - rest) / parts
    expected = FEATURES * (-math.log(rest) + 0.5 * parts * (parts * rho**2 - 2 * rho))
    found = q.divergence(q.mean, torch.ones(parts, FEATURES))
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_absent_places_change_nothing(parts: int) -> None:
    places = torch.tensor([4, 0, 2])[:parts]
    few = torch.randn(3, parts, FEATURES, dtype=torch.float64)
    small = PartsPosterior(few[0], few[1].exp(), few[2])
    mean, deviation, logits = torch.full((3, 5, FEATURES), 7.0, dtype=torch.float64)
    present = torch.zeros(5, dtype=torch.bool)
    present[places] = True
    noise = torch.randn(5, FEATURES, dtype=torch.float64)
    mean[places], deviation[places] = small.mean, small.deviation
    logits[places] = few[2]
    large = PartsPosterior(mean, deviation, logits, present)
    one, two = small.transform(noise[places]), large.transform(noise)
    torch.testing.assert_close(two[places], one)
    assert (two[~present] == 0).all()
    assert (large.variance[~present] == 0).all()
    torch.testing.assert_close(large.log_prob(two), small.log_prob(one))
    torch.testing.assert_close(large.entropy(), small.entropy())
    torch.testing.assert_close(large.sum_variance, small.sum_variance)
    p_mean, p_deviation = torch.zeros(5, FEATURES).double(), torch.full((5, FEATURES), 2.0).double()
    torch.testing.assert_close(
        large.divergence(p_mean, p_deviation), small.divergence(p_mean[places], p_deviation[places])
    )


def test_batches_gradients_and_shapes() -> None:
    present = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    inputs = [torch.randn(3, 3, FEATURES, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    q = PartsPosterior(inputs[0], inputs[1].exp(), inputs[2], present)
    w = q.rsample((2,))
    assert w.shape == (2, 3, 3, FEATURES)
    assert q.log_prob(w).shape == (2, 3)
    assert q.batch_shape == (3,)
    assert q.event_shape == (3, FEATURES)
    assert q.expand((4, 3)).log_prob(w[0]).shape == (4, 3)
    torch.testing.assert_close(q.expand((4, 3)).entropy(), q.entropy().expand(4, 3))
    (w.square().sum() + q.divergence(torch.zeros(()).double(), torch.ones(()).double()).sum()).backward()
    for value in inputs:
        assert value.grad is not None
        assert value.grad.isfinite().all()
        assert (value.grad[~present] == 0).all()
        assert (value.grad[present] != 0).all()
    assert repr(q) == f"PartsPosterior(batch_shape=(3,), event_shape=(3, {FEATURES}))"


def test_noise_and_sample_have_one_density() -> None:
    q = posterior(3, batch=(2,))
    noise = torch.randn(4, 2, 3, FEATURES, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob_of_noise(noise), q.log_prob(q.transform(noise)))


def test_errors() -> None:
    value = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="must have one shape"):
        PartsPosterior(value, value, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="present must be bool"):
        PartsPosterior(value, value, value, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="present must be bool"):
        PartsPosterior(value, value, value, torch.ones(2))
