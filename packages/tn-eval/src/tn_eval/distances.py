r"""Two sets of features compared: Fréchet's distance (FID), that of a polynomial kernel (KID), precision and recall.

The distances are computed in float64. Their intervals are those of the estimate's linear part in the items of both
sets (the influence function, as in the delta method and the infinitesimal jackknife). That needs no resampling, and is
a little too wide where the two distributions are equal. An interval says how far the estimate strays about its
expectation, not how far that is from the distance of the distributions: KID is unbiased, but FID is too large by an
amount that falls with the number of items. So compare FIDs of equally many samples, against the same images.

References:
    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, equation 6, https://arxiv.org/abs/1706.08500
    Binkowski et al., Demystifying MMD GANs, 2018, section 4, https://arxiv.org/abs/1801.01401
    Kynkäänniemi et al., Improved Precision and Recall Metric, 2019, https://arxiv.org/abs/1904.06991
    van der Vaart, Asymptotic Statistics, 1998, chapters 12 (U-statistics) and 20 (the functional delta method)
"""

import torch
from torch import Tensor, nn

__all__ = ["covered", "frechet_distance", "gaussian_discrepancy", "kernel_distance"]


def frechet_distance(samples: Tensor, reference: Tensor) -> tuple[float, float]:
    r"""The squared Fréchet distance of the normal distributions with the two sets' means and covariances.

        |m - n|^2 + tr( A + B - 2 (A B)^(1/2) )

    Its gradient with respect to A is 1 - T, where T is the matrix of the optimal transport from N(0, A) to N(0, B).

    Arguments:
        samples: (items, features).
        reference: (other items, features).

    Returns:
        The distance, computed by torchmetrics, and the half width of its 95 % interval.

    Raises:
        ValueError: if a set has fewer than two items, a number is not finite, or they differ in the number of features.
    """
    samples, reference = _checked(samples, reference)
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(samples.shape[1]))
    metric.update(samples, real=False)
    metric.update(reference, real=True)
    variance = _frechet_influence(samples, reference).var() / len(samples)
    variance += _frechet_influence(reference, samples).var() / len(reference)
    return max(0.0, float(metric.compute())), 1.96 * float(variance.sqrt())  # equal sets: rounding may go below 0


def kernel_distance(samples: Tensor, reference: Tensor) -> tuple[float, float]:
    """The squared maximum mean discrepancy with the kernel k(a, b) = (a'b / features + 1)^3.

    The unbiased estimate from all pairs of items, which may be negative. Estimates from random subsets of the items, as
    often reported, scatter about it.

    Arguments:
        samples: (items, features).
        reference: (other items, features).

    Returns:
        The estimate and the half width of its 95 % interval.

    Raises:
        ValueError: if a set has fewer than two items, a number is not finite, or they differ in the number of features.
    """
    x, y = _checked(samples, reference)
    x_to_y, y_to_x = _kernel_sums(x, y)
    x_to_y, y_to_x = x_to_y / len(y), y_to_x / len(x)
    within_x, within_y = _kernel_means_of_others(x), _kernel_means_of_others(y)
    value = within_x.mean() + within_y.mean() - 2 * x_to_y.mean()
    variance = 4 * ((within_x - x_to_y).var() / len(x) + (within_y - y_to_x).var() / len(y))
    return float(value), 1.96 * float(variance.sqrt())


def gaussian_discrepancy(samples: Tensor, reference: Tensor) -> float:
    """The squared maximum mean discrepancy with a Gaussian kernel, as wide as the reference's median distance.

    The unbiased estimate from all pairs of items, which may be negative.

    Arguments:
        samples: (items, features).
        reference: (other items, features).

    Raises:
        ValueError: if a set has fewer than two items, a number is not finite, or they differ in the number of features.

    References:
        Gretton et al., A Kernel Two-Sample Test, 2012, lemma 6.
    """
    x, y = _checked(samples, reference)
    width = torch.pdist(y).median().clamp_min(torch.finfo(y.dtype).tiny)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.5 * (torch.cdist(a, b) / width) ** 2)

    n, m = len(x), len(y)
    within = (kernel(x, x).sum() - n) / (n * (n - 1)) + (kernel(y, y).sum() - m) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())


def covered(points: Tensor, by: Tensor, neighbours: int = 3) -> Tensor:
    """Which points lie where the others are: within reach of one of them, as far as its third nearest neighbour is.

    Samples covered by data are precise, data covered by samples are recalled; the means of both are the precision and
    the recall of Kynkäänniemi et al. (equation 1).

    Arguments:
        points: (items, features).
        by: (other items, features).
        neighbours: which neighbour's distance is the reach.

    Returns:
        bool (items,).

    Raises:
        ValueError: if a set has fewer than two items or the others no more than ``neighbours``, a number is not finite,
            or they differ in the number of features.
    """
    points, by = (part.float() for part in _checked(points, by))
    if len(by) <= neighbours:
        raise ValueError(f"a neighbourhood of {neighbours} needs more items than that, got {len(by)}")
    # the nearest is the item itself
    reach = torch.cat([torch.cdist(part, by).kthvalue(neighbours + 1).values for part in by.split(1000)])
    return torch.cat([(torch.cdist(part, by) <= reach).any(1) for part in points.split(1000)])


class _Given(nn.Identity):
    """Takes the place of a network where the features are there already."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size  # torchmetrics asks for it


def _checked(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if samples.ndim != 2 or reference.ndim != 2 or samples.shape[1] != reference.shape[1]:
        raise ValueError(
            "two sets with the same number of features are needed, (items, features), "
            f"got {tuple(samples.shape)} and {tuple(reference.shape)}"
        )
    for name, features in (("samples", samples), ("held-out items", reference)):
        if len(features) < 2:
            raise ValueError(f"at least two {name} are needed, got {len(features)}")
        if not features.isfinite().all():
            raise ValueError(f"features of the {name} are not finite")
    return samples.double(), reference.double()


def _frechet_influence(a: Tensor, b: Tensor) -> Tensor:
    """How much each item of ``a`` moves its distance to ``b``, to first order and up to a constant, (items,)."""
    centred = a - a.mean(0)
    root = _power(b.T.cov(), 0.5)
    transport = root @ _power(root @ a.T.cov() @ root, -0.5) @ root
    shift = 2 * centred @ (a.mean(0) - b.mean(0))
    return shift + (centred * (centred - centred @ transport)).sum(1)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a positive semidefinite matrix, on its range."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return (vectors * values.where(kept, 1).pow(exponent).where(kept, 0)) @ vectors.T


def _kernel_means_of_others(a: Tensor) -> Tensor:
    """For each item the mean of its kernel with the other items, (items,)."""
    itself = (a.square().mean(1) + 1) ** 3
    return (_kernel_sums(a, a)[0] - itself) / (len(a) - 1)


def _kernel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the kernels of all pairs over ``b``, (items of a,), and over ``a``, (items of b,)."""
    rows, columns = [], b.new_zeros(len(b))
    for part in a.split(250):  # that much of the matrix is still near the processor when it is needed again
        kernel = torch.addmm(b.new_ones(()), part, b.T, alpha=1 / b.shape[1]).pow_(3)
        rows.append(kernel.sum(1))
        columns += kernel.sum(0)
    return torch.cat(rows), columns
