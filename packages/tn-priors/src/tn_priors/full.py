r"""A mixture of Gaussians with full covariances, what is most often fitted to latents ex post.

References:
    Ghosh et al., From Variational to Deterministic Autoencoders, 2020, section 4
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from zuko.lazy import LazyDistribution

from tn_priors.fitting import check_latents
from tn_priors.simple import no_labels

__all__ = ["FullGaussianMixture", "FullMixture"]


class FullGaussianMixture(LazyDistribution):
    r"""A mixture of Gaussians with full covariances, sum_c w_c N(z; mu_c, L_c L_c').

    Arguments:
        features: the number of latents.
        components: the number of Gaussians; 1: a multivariate normal.

    Raises:
        ValueError: if a number is below 1.

    Example:
        >>> prior = FullGaussianMixture(features=8, components=5)
        >>> prior().log_prob(torch.zeros(3, 8)).shape
        torch.Size([3])
    """

    def __init__(self, features: int, components: int = 10) -> None:
        super().__init__()
        for name, number in (("features", features), ("components", components)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.features, self.components = features, components
        self.labels: tuple[()] = ()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(0.1 * torch.randn(components, features))
        # L below the diagonal, and the logarithm of it on the diagonal
        self.roots = nn.Parameter(torch.zeros(components, features, features))

    def forward(self, y: None = None) -> "FullMixture":
        """Returns p(z).

        Arguments:
            y: None; there are no labels.

        Raises:
            ValueError: if y is given.
        """
        no_labels(self, y)
        diagonal = self.roots.diagonal(dim1=-2, dim2=-1).exp()
        roots = self.roots.tril(-1) + diagonal.diag_embed()
        gaussians = MultivariateNormal(self.means, scale_tril=roots, validate_args=False)
        return FullMixture(Categorical(logits=self.logits), gaussians, validate_args=True)

    @property
    def fewest_to_fit(self) -> int:
        """How many samples ``fit`` needs at least."""
        return max(2, self.components)

    @torch.no_grad()
    def fit(self, z: Tensor, y: None = None, *, seed: int = 0) -> None:
        """Fits the mixture to latents of any model by expectation maximisation: ex-post density estimation.

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
        em = mixture.GaussianMixture(self.components, covariance_type="full", max_iter=500, random_state=seed)
        em.fit(z.detach().double().cpu().numpy())
        weights, means, covariances = map(torch.from_numpy, (em.weights_, em.means_, em.covariances_))
        roots = torch.linalg.cholesky(covariances)
        self.logits.copy_(weights.log())
        self.means.copy_(means)
        self.roots.copy_(roots.tril(-1) + roots.diagonal(dim1=-2, dim2=-1).log().diag_embed())

    def extra_repr(self) -> str:
        """The numbers of latents and of Gaussians."""
        return f"features={self.features}, components={self.components}"


class FullMixture(MixtureSameFamily):
    r"""A mixture of multivariate normals.

    Arguments:
        mixture_distribution: ``Categorical`` over the components.
        component_distribution: ``MultivariateNormal``, (\*batch, components) and (d,).
        validate_args: whether to check values given to ``log_prob``.
    """

    def component_posterior(self, value: Tensor) -> Tensor:
        r"""Returns p(c | z), (\*batch, components), for values z (\*batch, d)."""
        gaussians: Any = self.component_distribution
        found: Tensor = gaussians.log_prob(value.unsqueeze(-2)) + self.mixture_distribution.logits
        return found.softmax(-1)

    @property
    def covariance(self) -> Tensor:
        r"""Exact covariance, (\*batch, d, d)."""
        gaussians: Any = self.component_distribution
        weights = self.mixture_distribution.probs.unsqueeze(-1)
        away = gaussians.loc - (weights * gaussians.loc).sum(-2, keepdim=True)
        within: Tensor = (weights.unsqueeze(-1) * gaussians.covariance_matrix).sum(-3)
        return within + away.mT @ (weights * away)

    def marginal_cdf(self, value: Tensor) -> Tensor:
        r"""P(z_k <= value_k) for each dimension by itself, (\*batch, d), for values (\*batch, d)."""
        gaussians: Any = self.component_distribution
        below = torch.special.ndtr((value.unsqueeze(-2) - gaussians.loc) / gaussians.stddev)
        return (self.mixture_distribution.probs.unsqueeze(-1) * below).sum(-2)
