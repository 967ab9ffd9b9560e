"""The most probable states of a chain, by beam search."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tn_core.chain import log_or_minus_infinity
from tn_core.cores import Boundary, Cores, Grouped, group, without_autocast
from tn_core.evidence import Evidence, Weights, by_position, weigh
from tn_core.tree import leaves, product_tree

__all__ = ["mode"]


def mode(
    cores: Cores,
    log_evidence: Evidence = None,
    *,
    boundary: Boundary = "ring",
    beam: int = 256,
    variables: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Searches the most probable completion by a beam, each prefix scored by its exact marginal weight.

    Maximising over some variables with the bonds summed out is intractable in general (the consensus string of a
    hidden Markov model), so this is a search. It is exact whenever the number of assignments of the variables
    searched over is at most ``beam``; the weight returned is the exact weight of what was found in any case.

    Arguments:
        cores: as in :func:`log_partition`.
        log_evidence: as in :func:`log_partition`.
        boundary: "ring" or "train".
        beam: the number of prefixes kept.
        variables: positions to maximise over; the others are summed out. None: all.

    Returns:
        The states, long (\*batch, n), -1 for variables summed out; and the log weight of each, (\*batch,): the log of
        the sum over the variables summed out of W[s] times the evidence of s.

    Raises:
        ValueError: if a shape, the boundary, the beam or a position is not allowed.
    """
    chain = group(cores, boundary).plain
    weights = weigh(chain, log_evidence)
    n = len(chain.sizes)
    searched = set(range(n) if variables is None else variables)
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")
    if not searched <= set(range(n)):
        raise ValueError(f"variables must be positions from 0 to {n - 1}, got {sorted(searched)}")
    with without_autocast(chain.like):
        states, log_weight = _search(chain, weights, searched, boundary, beam)
    return states.reshape(*weights.batch, n), (log_weight + weights.log_scale).reshape(weights.batch)


def _search(
    chain: Grouped, weights: Weights, searched: set[int], boundary: Boundary, beam: int
) -> tuple[Tensor, Tensor]:
    """The states found, (rows, n), and their log weights, (rows,)."""
    n, m, rows = len(chain.sizes), chain.width, weights.rows
    matrices = product_tree(leaves(chain, weights))[0][0]  # rescaled: only ratios matter for the search
    # a ring keeps the whole product and closes it by a trace, a train keeps a vector and closes it by a sum
    opening = torch.eye(m) if boundary == "ring" else torch.ones(1, m)
    suffixes = [opening.T.to(chain.like).expand(rows, -1, -1)]
    for k in reversed(range(n)):
        suffix = matrices.matrix(k) @ suffixes[-1]
        suffixes.append(suffix / suffix.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(suffix.dtype).tiny))
    suffixes.reverse()

    row = torch.arange(rows, device=chain.like.device).unsqueeze(1)
    states = torch.full((rows, 1, n), -1, dtype=torch.long, device=chain.like.device)
    prefix = opening.to(chain.like).expand(rows, 1, -1, -1)
    log_weight = chain.like.new_zeros(rows, 1)
    for k, (g, e) in enumerate(by_position(chain, weights)):
        step = (g if e is None else g * e[:, :, None, None]).expand(rows, -1, -1, -1)  # shape: (rows, N, m, m)
        if k not in searched:
            step = step.sum(1, keepdim=True)
        # the trace (or sum) of prefix step suffix, for every prefix kept and every value
        turned = suffixes[k + 1].unsqueeze(1) @ prefix  # shape: (rows, kept, m, m)
        score = torch.einsum("rnab,rkba->rkn", step, turned)
        log_score = (log_weight.unsqueeze(-1) + log_or_minus_infinity(score)).flatten(1)
        best = log_score.topk(min(beam, log_score.shape[1]), dim=1).indices
        parent, value = best // step.shape[1], best % step.shape[1]
        states = states[row, parent]
        if k in searched:
            states[:, :, k] = value
        prefix = prefix[row, parent] @ step[row, value]
        peak = prefix.amax((-2, -1))
        peak = torch.where(peak > 0, peak, 1)
        prefix = prefix / peak[:, :, None, None]
        log_weight = log_weight[row, parent] + peak.log()
    total = prefix.diagonal(dim1=-2, dim2=-1).sum(-1) if boundary == "ring" else prefix.sum((-2, -1))
    log_total, best = (log_weight + log_or_minus_infinity(total)).max(1)
    return states[row.squeeze(1), best], log_total
