r"""Pathwise gradients of samples from a chain, by implicit differentiation.

Given z_{<k}, z_k is a one-dimensional mixture with distribution function F_k and density f_k. A sample solves
F_k(z_k; z_{<k}, parameters) = u_k for a uniform u_k that no parameter moves, so

    dz_k = -dF_k / f_k,    where F_k depends on z_{<k} by the product P_k of the chain's matrices before k alone.

From the derivatives of a loss with respect to the samples one pass back along the chain finds what each F_k weighs in
it, w_k, and with it the derivatives with respect to the products, L_k:

    w_k = -(dloss/dz_k + <L_{k+1}, dP_{k+1}/dz_k>) / f_k,    L_k = L_{k+1} A_k' + w_k dF_k/dP_k,    P_{k+1} = P_k A_k.

The derivatives with respect to cores and evidence are added up on that way; F_k and f_k, and the derivatives with
respect to means and deviations, are computed for all k at once.

References:
    Figurnov et al., Implicit Reparameterization Gradients, 2018, https://arxiv.org/abs/1805.08498
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tn_core.cores import Boundary, Grouped, index_on, without_autocast
from tn_core.evidence import by_position, weigh
from tn_core.tree import leaves

__all__ = ["implicit_draw", "pathwise"]

_AT_ONCE = 2**24  # numbers of the largest array that is worked on at once


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
    cores = cores.plain
    weights = weigh(cores, evidence or None)
    matrices = leaves(cores, weights)
    width, like = cores.width, cores.like
    # a ring carries the whole product and closes it by a trace, a train carries a vector and closes it by a sum
    opening = torch.eye(width, dtype=like.dtype, device=like.device) if boundary == "ring" else like.new_ones(1, width)

    def matrix(k: int) -> Tensor:
        found = matrices.matrix(k)
        return found if found.ndim == 3 else found.unsqueeze(0)

    count, dims = len(matrices.where), {position: j for j, position in enumerate(positions)}
    suffixes = {count: opening.T.unsqueeze(0)}  # shape: (1 or rows, m, 1 or m)
    for k in reversed(range(min(dims) + 1, count)):
        suffixes[k] = _scaled(matrix(k) @ suffixes[k + 1])
    along = sorted(dims)
    order = index_on(tuple(dims[k] for k in along), value.device)
    by_place = by_position(cores, weights)
    g = torch.stack([by_place[k][0] for k in along])
    closing = [suffixes[k + 1] for k in along]
    own = sum(len(suffix) > 1 for suffix in closing)  # those before the last evidence
    apart = torch.stack(closing[:own]) if own else opening.new_empty(0, weights.rows, *opening.T.shape)
    closed = g[own:] @ torch.stack(closing[own:]) if own < len(along) else g[:0] @ opening.T
    others = [k for k in range(along[-1]) if k not in dims]
    chain = _Chain(opening, own, tuple(sum(a < k for a in along) for k in others), weights.rows)
    drawn = value.detach().reshape(-1, len(positions))[:, order]
    found: Tensor = _Paths.apply(
        drawn, chain, means[order], deviations[order], g, apart, closed, *(matrix(k) for k in others)
    )
    return found[:, order.argsort()].reshape(value.shape)


class _Chain(NamedTuple):
    """How the dimensions, in their order along the chain, and what stands between them follow one another.

    Attributes:
        opening: (1, m) or (m, m).
        own: how many dimensions are followed by evidence that differs from row to row; they come first.
        places: for each matrix that stands between them before which dimension.
        rows: of the evidence; sample b has the evidence of row b modulo that.
    """

    opening: Tensor
    own: int
    places: tuple[int, ...]
    rows: int


class _Paths(torch.autograd.Function):
    """The identity on samples, with the derivatives of paths.

    Arguments:
        z: samples (samples, d), in the order of the chain.
        chain: what it looks like.
        means: (d, N).
        deviations: (d, N).
        g: cores (d, N, m, m).
        apart: (own, rows, m, 1 or m), the products of all that comes after each of the first ones.
        closed: (d - own, N, m, 1 or m), the other cores times the product of all that comes after them.
        between: matrices (1 or rows, m, m) of variables that are no dimensions.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, chain: _Chain, *tensors: Tensor) -> Tensor:
        ctx.chain = chain
        ctx.save_for_backward(z, *tensors)
        return z.view_as(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        z, *tensors = ctx.saved_tensors
        totals = [torch.zeros_like(tensor) for tensor in tensors]
        d, components, m, _ = tensors[2].shape
        numbers = d * m * max(len(ctx.chain.opening), components)
        piece = max(1, _AT_ONCE // numbers)
        with without_autocast(z):
            rows = torch.arange(len(z), device=z.device) % ctx.chain.rows
            for z_some, slopes, row in zip(z.split(piece), grads[0].split(piece), rows.split(piece), strict=True):
                _add_derivatives(totals, z_some, slopes, row, ctx.chain, tensors)
        return None, None, *totals


def _add_derivatives(
    totals: list[Tensor], z: Tensor, slopes: Tensor, row: Tensor, chain: _Chain, tensors: list[Tensor]
) -> None:
    """Adds the derivatives of <slopes, samples> with respect to the tensors, see :class:`_Paths`.

    Arguments:
        totals: where to add them.
        z: (samples, d).
        slopes: of the loss in the samples, (samples, d).
        row: which evidence each sample has, long (samples,).
        chain: what it looks like.
        tensors: the arguments of :class:`_Paths`.
    """
    means, deviations, g, apart, closed, *between = tensors
    in_means, in_deviations, in_g, in_apart, in_closed, *in_between = totals
    d, samples, own = len(means), len(z), chain.own
    flat, in_flat = g.flatten(2), in_g.flatten(2)
    turned, in_turned = closed.mT.flatten(2), torch.zeros_like(closed.mT).flatten(2)
    x = (z.T.unsqueeze(-1) - means.unsqueeze(1)) / deviations.unsqueeze(1)  # shape of all of these: (d, samples, N)
    log_e = -0.5 * x.square() - deviations.log().unsqueeze(1)
    e = torch.exp(log_e - log_e.amax(-1, keepdim=True))
    after = apart[:, row]

    # along the chain; every product is divided by its largest entry, on which no F_k depends
    prefix = chain.opening.expand(samples, -1, -1)
    prefixes = e.new_empty(d, *prefix.shape)
    steps = (_RingSteps if len(chain.opening) > 1 else _TrainSteps)(g, in_g, e)
    scales = e.new_ones(d, samples, 1, 1)
    q = torch.empty_like(x)  # proportional to p(s_k = s | z_{<k}): the trace of P_k G[s] and all that comes after
    passed: list[list[tuple[int, Tensor, Tensor, Tensor]]] = [[] for _ in range(d)]
    for t in range(d):
        for i in (i for i, place in enumerate(chain.places) if place == t):
            matrix = between[i] if len(between[i]) == 1 else between[i][row]
            product = prefix @ matrix
            scale = _peak(product)
            passed[t].append((i, prefix, matrix, scale))
            prefix = product / scale
        prefixes[t] = prefix
        if t < own:
            q[t] = (after[t] @ prefix).mT.flatten(1) @ flat[t].T
        else:
            q[t] = prefix.flatten(1) @ turned[t - own].T
        if t < d - 1:
            prefix = steps.onward(t, prefix)
            scales[t] = _peak(prefix)
            prefix /= scales[t]

    total = q.sum(-1, keepdim=True)
    p = q / total
    cdf, density = _distribution(x, p, deviations.unsqueeze(1))
    in_q = (cdf - (p * cdf).sum(-1, keepdim=True)) / total  # of F_k
    f = (p * density).sum(-1).clamp_min(torch.finfo(density.dtype).tiny)
    x_by_deviation = x / deviations.unsqueeze(1)

    # and back
    w, in_log_e = torch.empty_like(f), torch.zeros_like(e)
    back = torch.zeros_like(prefix)
    for t in reversed(range(d)):
        slope = slopes[:, t]
        if t < d - 1:
            back /= scales[t]
            in_e, back = steps.back(t, prefixes[t], back)
            torch.mul(in_e, e[t], out=in_log_e[t])
            slope = slope - (in_log_e[t] * x_by_deviation[t]).sum(-1)
        w[t] = -slope / f[t]
        weighted = w[t].unsqueeze(-1) * in_q[t]
        if t < own:
            in_core = (weighted @ flat[t]).view(samples, *g.shape[2:])
            in_flat[t].addmm_(weighted.T, (after[t] @ prefixes[t]).mT.flatten(1))
            in_apart[t].index_add_(0, row, in_core.mT @ prefixes[t].mT)
            back += (in_core @ after[t]).mT
        else:
            in_turned[t - own].addmm_(weighted.T, prefixes[t].flatten(1))
            back += (weighted @ turned[t - own]).view_as(back)
        for i, earlier, matrix, scale in reversed(passed[t]):
            back /= scale
            in_matrix = earlier.mT @ back
            if len(between[i]) == 1:
                in_between[i] += in_matrix.sum(0)
            else:
                in_between[i].index_add_(0, row, in_matrix)
            back = back @ matrix.mT

    in_closed += in_turned.unflatten(-1, closed.mT.shape[2:]).mT
    direct = w.unsqueeze(-1) * p * density
    in_means += (in_log_e * x_by_deviation - direct).sum(1)
    in_deviations += (in_log_e * (x.square() - 1) / deviations.unsqueeze(1) - direct * x).sum(1)


class _RingSteps:
    """P_{k+1} = P_k A_k and its derivatives, where P_k is a matrix: A_k = sum_s e_k(s) G_k[s] is made and kept.

    Arguments:
        g: cores (d, N, m, m).
        in_g: where derivatives with respect to them are added.
        e: weights of the values (d, samples, N).
    """

    def __init__(self, g: Tensor, in_g: Tensor, e: Tensor) -> None:
        self.flat, self.in_flat, self.e = g.flatten(2), in_g.flatten(2), e
        self.a = e.new_empty(*e.shape[:2], *g.shape[2:])

    def onward(self, t: int, prefix: Tensor) -> Tensor:
        """P_{k+1}, (samples, m, m)."""
        torch.mm(self.e[t], self.flat[t], out=self.a[t].flatten(1))
        return prefix @ self.a[t]

    def back(self, t: int, prefix: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """From derivatives in P_{k+1} those in e_k, (samples, N), and in P_k; adds those in G_k."""
        in_a = (prefix.mT @ back).flatten(1)
        self.in_flat[t].addmm_(self.e[t].T, in_a)
        return in_a @ self.flat[t].T, back @ self.a[t].mT


class _TrainSteps:
    """The same where P_k is a row: P_k G_k[s] is made and kept, a tenth of A_k or less.

    Arguments:
        g: cores (d, N, m, m).
        in_g: where derivatives with respect to them are added.
        e: weights of the values (d, samples, N).
    """

    def __init__(self, g: Tensor, in_g: Tensor, e: Tensor) -> None:
        self.e, self.in_rows = e, in_g.flatten(1, 2)
        self.side_by_side, self.on_end = g.transpose(1, 2).flatten(2), g.mT.flatten(1, 2)
        self.rows = e.new_empty(*e.shape, g.shape[-1])

    def onward(self, t: int, prefix: Tensor) -> Tensor:
        """P_{k+1}, (samples, 1, m)."""
        torch.mm(prefix.squeeze(1), self.side_by_side[t], out=self.rows[t].flatten(1))
        return self.e[t].unsqueeze(1) @ self.rows[t]

    def back(self, t: int, prefix: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """From derivatives in P_{k+1} those in e_k, (samples, N), and in P_k; adds those in G_k."""
        e = self.e[t].unsqueeze(-1)
        self.in_rows[t].addmm_((e * prefix).flatten(1).T, back.squeeze(1))
        return (self.rows[t] @ back.mT).squeeze(-1), ((e * back).flatten(1) @ self.on_end[t]).unsqueeze(1)


def _peak(product: Tensor) -> Tensor:
    """The largest entry of each matrix, (matrices, 1, 1)."""
    return product.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(product.dtype).tiny)


def _distribution(x: Tensor, weights: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
    """Distribution functions and densities of Gaussians at standardised values, both (*batch, N).

    Above the middle of the mixture the functions less one, which have the same derivatives and keep their digits in the
    upper tail.
    """
    side = 1 - 2 * ((weights * x).sum(-1, keepdim=True) > 0).to(x)
    cdf = side * torch.special.ndtr(side * x)
    return cdf, torch.exp(-0.5 * x**2) / (deviations * math.sqrt(2 * math.pi))


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
    cdf, density = _distribution(x, weights, deviations)
    cdf = (weights * cdf).sum(-1)
    density = (weights * density).sum(-1).detach()
    z: Tensor = start - (cdf - cdf.detach()) / density.clamp_min(torch.finfo(density.dtype).tiny)
    return z


def _scaled(matrix: Tensor) -> Tensor:
    """Divided by its largest entry, a constant to autograd."""
    return matrix / _peak(matrix.detach())
