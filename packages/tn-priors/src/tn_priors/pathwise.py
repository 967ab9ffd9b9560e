r"""Pathwise gradients of samples from a chain, by implicit differentiation.

Given z_{<k}, z_k is a one-dimensional mixture with distribution function F_k and density f_k. A sample solves
F_k(z_k; z_{<k}, parameters) = u_k for a uniform u_k that no parameter moves, so dz_k = -dF_k / f_k. The surrogate

    z_k = z_k0 - (F_k(z_k0; z_{<k}) - stop(F_k)) / stop(f_k(z_k0))

has the value of the drawn sample z_k0 and that derivative, with z_{<k} carrying theirs, so that one pass along the
chain gives gradients to means, deviations, cores and evidence.

References:
    Figurnov et al., Implicit Reparameterization Gradients, 2018, https://arxiv.org/abs/1805.08498
"""

import math

import torch
from torch import Tensor

from tn_core.cores import Boundary, Grouped
from tn_core.evidence import by_position, weigh
from tn_core.tree import leaves, product_tree

__all__ = ["implicit_draw", "pathwise"]


def pathwise(
    value: Tensor,
    cores: Grouped,
    boundary: Boundary,
    positions: tuple[int, ...],
    means: Tensor,
    deviations: Tensor,
    evidence: dict[int, Tensor],
) -> Tensor:
    r"""Returns the samples ``value`` with gradients.

    Arguments:
        value: samples (\*sample, \*batch, d), drawn from the distribution.
        cores: the chain.
        boundary: "ring" or "train".
        positions: for each of the d dimensions its position on the chain.
        means: (d, N).
        deviations: (d, N).
        evidence: log weights (\*batch, N_k) by position.

    Returns:
        The same numbers (\*sample, \*batch, d).
    """
    d = len(positions)
    cores = cores.plain
    weights = weigh(cores, evidence or None)
    rows = weights.rows
    # shape: (samples, rows, d); the batch of the evidence is the last of the batch axes
    drawn = value.detach().reshape(-1, rows, d)
    matrices = product_tree(leaves(cores, weights))[0][0]
    width = cores.width
    # a ring carries the whole product and closes it by a trace, a train carries a vector and closes it by a sum
    like = cores.like
    opening = torch.eye(width, dtype=like.dtype, device=like.device) if boundary == "ring" else like.new_ones(1, width)
    suffixes = [opening.T.expand(1, -1, -1)]
    for k in reversed(range(len(matrices.where))):
        matrix = matrices.matrix(k)
        suffix = (matrix if matrix.ndim == 3 else matrix.unsqueeze(0)) @ suffixes[-1]
        suffixes.append(_scaled(suffix))
    suffixes.reverse()

    dims = {position: j for j, position in enumerate(positions)}
    prefix = opening.expand(1, 1, -1, -1)
    found: dict[int, Tensor] = {}
    for k, (g, _) in enumerate(by_position(cores, weights)):
        if k not in dims:
            matrix = matrices.matrix(k)
            prefix = _scaled(prefix @ matrix)
            continue
        j = dims[k]
        # p(s_k | z_{<k}) is proportional to the trace of prefix G[s] suffix
        suffix = suffixes[k + 1]
        if len(suffix) == 1:  # the same for all samples: it joins the core
            p = prefix.flatten(-2) @ (g @ suffix[0]).mT.flatten(1).T
        else:
            p = (suffix @ prefix).mT.flatten(-2) @ g.flatten(1).T  # shape: (samples, rows, N)
        p = p / p.sum(-1, keepdim=True)
        z = implicit_draw(drawn[..., j], p, means[j], deviations[j])
        found[j] = z
        log_e = -0.5 * ((z.unsqueeze(-1) - means[j]) / deviations[j]) ** 2 - deviations[j].log()
        e = torch.exp(log_e - log_e.detach().amax(-1, keepdim=True))
        emission = (e @ g.flatten(1)).unflatten(-1, g.shape[1:])
        prefix = _scaled(prefix @ emission)
    return torch.stack([found[j] for j in range(d)], -1).reshape(value.shape)


def implicit_draw(start: Tensor, weights: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    r"""Returns samples of one-dimensional mixtures of Gaussians with the derivative -dF / f of a quantile.

    F is the distribution function and f the density of the mixture.

    Arguments:
        start: the samples (\*batch,), constants.
        weights: (\*batch, N), summing to one.
        means: (\*batch, N).
        deviations: (\*batch, N).

    Returns:
        The same numbers (\*batch,).
    """
    x = (start.unsqueeze(-1) - means) / deviations
    # F or, above the middle, F - 1, which has the same derivatives and keeps its digits in the upper tail
    side = 1 - 2 * ((weights * x).detach().sum(-1, keepdim=True) > 0).to(x)
    cdf = (side * weights * torch.special.ndtr(side * x)).sum(-1)
    density = (weights * torch.exp(-0.5 * x**2) / (deviations * math.sqrt(2 * math.pi))).sum(-1).detach()
    z: Tensor = start - (cdf - cdf.detach()) / density.clamp_min(torch.finfo(density.dtype).tiny)
    return z


def _scaled(matrix: Tensor) -> Tensor:
    """Divided by its largest entry, a constant to autograd."""
    return matrix / matrix.detach().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
