"""Distribution functions of single dimensions, and covariances, of any distribution that has them in closed form.

A distribution over vectors offers them by a method ``marginal_cdf`` and a property ``covariance``; those of this
package but flows do. Of torch's, independent normals and multivariate normals are known.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

__all__ = ["covariance", "has_marginals", "marginal_cdf"]


def has_marginals(p: Distribution) -> bool:
    """Whether :func:`marginal_cdf` and :func:`covariance` know this distribution."""
    return (
        hasattr(p, "marginal_cdf")
        or isinstance(p, MultivariateNormal)
        or (isinstance(p, Independent) and isinstance(p.base_dist, Normal))
    )


def marginal_cdf(p: Distribution, value: Tensor) -> Tensor:
    r"""P(z_k <= value_k) for each dimension by itself, (\*batch, d).

    Arguments:
        p: over vectors, event shape (d,).
        value: (\*batch, d).

    Raises:
        ValueError: if the distribution does not know.
    """
    _check(p)
    if hasattr(p, "marginal_cdf"):
        found: Tensor = p.marginal_cdf(value)
        return found
    return torch.special.ndtr((value - p.mean) / p.stddev)


def covariance(p: Distribution) -> Tensor:
    r"""The covariance matrix, (\*batch, d, d).

    Arguments:
        p: over vectors, event shape (d,).

    Raises:
        ValueError: if the distribution does not know.
    """
    _check(p)
    known: Any = p
    for name in ("covariance", "covariance_matrix"):
        if hasattr(p, name):
            found: Tensor = getattr(known, name)
            return found
    return p.variance.diag_embed()


def _check(p: Distribution) -> None:
    if not has_marginals(p):
        raise ValueError(
            f"{type(p).__name__} has no marginal distribution functions and covariance in closed form; "
            "normals, mixtures of Gaussians and tensor chains have"
        )
