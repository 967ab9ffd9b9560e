r"""The baselines: a standard normal and a mixture of diagonal Gaussians.

References:
    Figurnov et al., Implicit Reparameterization Gradients, 2018, https://arxiv.org/abs/1805.08498
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from zuko.lazy import LazyDistribution

from tn_core.cores import without_autocast
from tn_priors.chain_mixture import normal_log_density
from tn_priors.fitting import check_latents
from tn_priors.pathwise import implicit_draw

__all__ = ["DiagonalMixture", "GaussianMixture", "StandardNormal", "log_densities", "no_labels"]


class StandardNormal(LazyDistribution):
    r"""Standard normal prior, the one of the plain VAE. It has no parameters.

    Arguments:
        features: the number of latents.

    Raises:
        ValueError: if features is below 1.

    Example:
        >>> StandardNormal(features=8)().sample((3,)).shape
        torch.Size([3, 8])
    """

    zeros: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        self.features = features
        self.labels: tuple[()] = ()
        self.register_buffer("zeros", torch.zeros(features), persistent=False)  # carries dtype and device

    def forward(self, y: None = None) -> Distribution:
        """Returns p(z).

        Arguments:
            y: None; there are no labels.

        Raises:
            ValueError: if y is given.
        """
        no_labels(self, y)
        # validation is asked for by name, here and below: importing zuko turns torch's default off
        return Independent(Normal(self.zeros, torch.ones_like(self.zeros), validate_args=True), 1)

    def extra_repr(self) -> str:
        """The number of latents."""
        return f"features={self.features}"


class GaussianMixture(LazyDistribution):
    r"""A mixture of Gaussians with diagonal covariances, sum_c w_c prod_k N(z_k; mu_{c,k}, sigma_{c,k}^2).

    Arguments:
        features: the number of latents.
        components: the number of Gaussians.
        weights: of the Gaussians: "learned", or "uniform": all the same, and no parameter (the p(c) of CP-VAE, and the
            mixture that the VampPrior is compared with).
        learnable: False fixes all parameters.
        mean_scale: the means start at a normal draw of this standard deviation, so that the components differ. By
            default the mixture starts near N(0, I).
        separation: instead, the means start at this multiple of the unit vectors, one each, so that any two are
            ``separation`` times the square root of two apart. (GMM-AE: 1; clusters need about 10.)
        deviation: the standard deviation all Gaussians start at.

    Raises:
        ValueError: if a number is out of its range, or the weights are unknown.

    Example:
        >>> prior = GaussianMixture(features=8, components=5)
        >>> prior().log_prob(torch.zeros(3, 8)).shape
        torch.Size([3])
    """

    logits: Tensor

    def __init__(
        self,
        features: int,
        components: int = 10,
        *,
        weights: Literal["learned", "uniform"] = "learned",
        learnable: bool = True,
        mean_scale: float = 0.1,
        separation: float | None = None,
        deviation: float = 1.0,
    ) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        if weights not in ("learned", "uniform"):
            raise ValueError(f"weights must be 'learned' or 'uniform', got {weights!r}")
        if not mean_scale >= 0:
            raise ValueError(f"mean_scale must not be negative, got {mean_scale}")
        if separation is not None and not (separation > 0 and components <= features):
            raise ValueError(
                "separation must be positive, with no more components than features, "
                f"got {separation} with {components} and {features}"
            )
        if not deviation > 0:
            raise ValueError(f"deviation must be positive, got {deviation}")
        self.features, self.components, self.weights = features, components, weights
        self.labels: tuple[()] = ()
        logits = torch.zeros(components)
        if weights == "learned":
            self.logits = nn.Parameter(logits, requires_grad=learnable)
        else:
            self.register_buffer("logits", logits)  # saved under the same name, and no optimiser finds it
        if separation is None:
            means = mean_scale * torch.randn(components, features)
        else:
            means = separation * torch.eye(components, features)
        self.means = nn.Parameter(means, requires_grad=learnable)
        log_deviations = torch.full((components, features), math.log(deviation))
        self.log_deviations = nn.Parameter(log_deviations, requires_grad=learnable)

    @property
    def deviations(self) -> Tensor:
        """Standard deviations (components, features)."""
        return self.log_deviations.exp()

    def forward(self, y: None = None) -> "DiagonalMixture":
        """Returns p(z).

        Arguments:
            y: None; there are no labels.

        Raises:
            ValueError: if y is given.
        """
        no_labels(self, y)
        gaussians = Independent(Normal(self.means, self.deviations, validate_args=False), 1, validate_args=False)
        return DiagonalMixture(Categorical(logits=self.logits), gaussians, validate_args=True)

    @property
    def fewest_to_fit(self) -> int:
        """How many samples ``fit`` needs at least."""
        return max(2, self.components)

    @torch.no_grad()
    def fit(self, z: Tensor, y: None = None, *, seed: int = 0) -> None:
        """Fits the mixture to latents of any model by expectation maximisation: ex-post density estimation.

        Weights that are uniform stay so.

        Arguments:
            z: latents (samples, features), at least ``fewest_to_fit`` of them.
            y: None; there are no labels.
            seed: the seed of the start, which is a k-means.

        Raises:
            ValueError: if z has another shape, too few samples or is not finite, or y is given.
        """
        from sklearn import mixture

        no_labels(self, y)
        check_latents(z, self.features, self.fewest_to_fit)
        if self.weights == "uniform":
            means, variances = _equally_weighted(z.detach().double().cpu(), self.components, seed)
            self.set_mixture(torch.ones(self.components), means, variances)
            return
        em = mixture.GaussianMixture(self.components, covariance_type="diag", max_iter=500, random_state=seed)
        em.fit(z.detach().double().cpu().numpy())
        self.set_mixture(*map(torch.from_numpy, (em.weights_, em.means_, em.covariances_)))

    @torch.no_grad()
    def set_mixture(self, weights: Tensor, means: Tensor, variances: Tensor) -> None:
        """Writes a mixture into the parameters; weights that are uniform stay so.

        Arguments:
            weights: (components,).
            means: (components, features).
            variances: (components, features).
        """
        if self.weights == "learned":
            self.logits.copy_(weights.log())
        self.means.copy_(means)
        self.log_deviations.copy_(variances.log() / 2)

    def extra_repr(self) -> str:
        """The numbers of latents and of Gaussians."""
        return f"features={self.features}, components={self.components}, weights={self.weights!r}"


class DiagonalMixture(MixtureSameFamily):
    r"""A mixture of diagonal Gaussians whose samples carry pathwise gradients.

    Arguments:
        mixture_distribution: ``Categorical`` over the components.
        component_distribution: ``Independent(Normal(means, deviations), 1)``, (\*batch, components, d).
        validate_args: whether to check values given to ``log_prob``.
    """

    has_rsample = True

    def __repr__(self) -> str:
        return (
            f"DiagonalMixture(components={self._num_component}, batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)})"
        )

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""Log weights (\*batch, components), means and deviations (\*batch, components, d)."""
        gaussians: Any = self.component_distribution
        return self.mixture_distribution.logits, gaussians.base_dist.loc, gaussians.base_dist.scale

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws samples (\*sample_shape, \*batch, d), one Gaussian a sample (torch's own draws from all of them)."""
        return self._draw(sample_shape)

    def _draw(self, sample_shape: Sequence[int]) -> Tensor:
        """Samples with gradients to means and deviations: those of the Gaussian that each was drawn from."""
        _, means, deviations = self._parameters()
        components: Any = self.mixture_distribution
        chosen: Tensor = components.sample(torch.Size(sample_shape))
        index = chosen[..., None, None].expand(*chosen.shape, 1, means.shape[-1])
        mean, deviation = (x.expand(*chosen.shape, *x.shape[-2:]).gather(-2, index) for x in (means, deviations))
        return (mean + deviation * torch.randn_like(mean)).squeeze(-2)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws samples (\*sample_shape, \*batch, d) with pathwise gradients to weights, means and deviations.

        Dimension by dimension: z_k given z_{<k} is a one-dimensional mixture, weighted by p(c | z_{<k}).
        """
        value = self.sample(sample_shape)
        log_weights, means, deviations = self._parameters()
        found = []
        for k in range(value.shape[-1]):
            z = implicit_draw(value[..., k], log_weights.softmax(-1), means[..., k], deviations[..., k])
            found.append(z)
            log_weights = log_weights + normal_log_density(z.unsqueeze(-1), means[..., k], deviations[..., k])
        return torch.stack(found, -1)

    def rsample_with_score(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        r"""Draws samples that keep their Gaussians, and the log density that the choice of Gaussians is scored by.

        As :meth:`tn_priors.ChainMixture.rsample_with_score`.

        Returns:
            z (\*sample_shape, \*batch, d), with gradients to means and deviations, and log p(z)
            (\*sample_shape, \*batch), in nats, with gradients to the weights.
        """
        z = self._draw(sample_shape)
        log_weights, means, deviations = self._parameters()
        return z, (log_weights + log_densities(z.detach(), means.detach(), deviations.detach())).logsumexp(-1)

    def _joint(self, value: Tensor) -> Tensor:
        r"""log p(z, c), (\*batch, components)."""
        if self._validate_args:
            self._validate_sample(value)
        log_weights, means, deviations = self._parameters()
        return log_weights + log_densities(value, means, deviations)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log density (\*batch,) of values (\*batch, d), in nats."""
        return self._joint(value).logsumexp(-1)

    @property
    def covariance(self) -> Tensor:
        r"""Exact covariance, (\*batch, d, d)."""
        log_weights, means, deviations = self._parameters()
        weights = log_weights.softmax(-1).unsqueeze(-1)
        away = means - (weights * means).sum(-2, keepdim=True)
        within: Tensor = (weights * deviations.square()).sum(-2)
        return within.diag_embed() + away.mT @ (weights * away)

    def marginal_cdf(self, value: Tensor) -> Tensor:
        r"""P(z_k <= value_k) for each dimension by itself, (\*batch, d), for values (\*batch, d)."""
        if self._validate_args:
            self._validate_sample(value)
        log_weights, means, deviations = self._parameters()
        below = torch.special.ndtr((value.unsqueeze(-2) - means) / deviations)
        return (log_weights.softmax(-1).unsqueeze(-1) * below).sum(-2)

    def component_posterior(self, value: Tensor) -> Tensor:
        r"""Returns p(c | z), (\*batch, components), for values z (\*batch, d)."""
        return self._joint(value).softmax(-1)


def log_densities(value: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    r"""The log densities of diagonal Gaussians.

    By two matrix products, so that nothing of the size batch times components times d is ever made.

    Arguments:
        value: (\*batch, d).
        means: (\*batch, components, d).
        deviations: (\*batch, components, d).

    Returns:
        (\*batch, components), in nats.
    """

    def times(x: Tensor, y: Tensor) -> Tensor:
        return x @ y.mT if y.ndim == 2 else (x.unsqueeze(-2) @ y.mT).squeeze(-2)

    with without_autocast(value):  # squares cancel here
        centre = means.detach().mean(-2)
        value, means = value - centre, means - centre.unsqueeze(-2)
        precision = deviations.square().reciprocal()
        squares = times(value.square(), 0.5 * precision) - times(value, means * precision)
        constant = (0.5 * means.square() * precision + deviations.log()).sum(-1)
        return -squares - constant - 0.5 * math.log(2 * math.pi) * value.shape[-1]


def _equally_weighted(z: Tensor, components: int, seed: int, iterations: int = 500) -> tuple[Tensor, Tensor]:
    """Means and variances (components, features) by expectation maximisation with equal weights, from a k-means.

    scikit-learn's mixtures have no fixed weights. Variances have 10^-6 added, as there.
    """
    from sklearn.cluster import KMeans

    clusters = KMeans(components, n_init=1, random_state=seed).fit_predict(z.numpy())
    share = nn.functional.one_hot(torch.from_numpy(clusters).long(), components).to(z)
    before = -math.inf
    for _ in range(iterations):
        mass = share.sum(0).unsqueeze(1) + 1e-12
        means = share.T @ z / mass
        variances = (share.T @ z**2 / mass - means**2).clamp_min(0).add(1e-6)
        log_p = log_densities(z, means, variances.sqrt())
        share = log_p.softmax(1)
        mean_log_p = float(log_p.logsumexp(1).mean())
        if mean_log_p - before < 1e-4:
            break
        before = mean_log_p
    return means, variances


def no_labels(prior: LazyDistribution, y: object) -> None:
    """Raises a ValueError if a prior without labels is given some."""
    if y is not None:
        raise ValueError(f"{type(prior).__name__} has no labels: y must be None, got {type(y).__name__}")
