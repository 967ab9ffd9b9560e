r"""Non-negative tensor chains: partition function and marginals.

A chain over n discrete variables weighs a state s = (s_1, ..., s_n) by

    ring:   W[s] = Tr(G_1[s_1] G_2[s_2] ... G_n[s_n])
    train:  W[s] = 1' G_1[s_1] G_2[s_2] ... G_n[s_n] 1

with non-negative matrices G_k[s] ("cores"). Evidence is one non-negative weight e_k(s) a variable and value, given as
its logarithm: one-hot for an observed variable, 0/1 for a set of values, a likelihood for soft evidence, ones for an
unknown one. Everything follows from

    Z(e) = sum_s W[s] prod_k e_k(s_k).

Shapes. ``cores``: a tensor (n, N, m, m), or a sequence of tensors (N_k, m_k, m_{k+1}). ``log_evidence``: a tensor
(\*batch, n, N), minus infinity where a value is ruled out or does not exist (N is the largest N_k); or a mapping from
positions to tensors (\*batch, N_k), and from tuples of positions to tensors (\*batch, positions, N_k), the other
variables being unknown; or None, all unknown. Variables without evidence are contracted once for the whole batch where
that is faster.

How the arithmetic is done is in :mod:`tn_core.plans`. It is done in the dtype of the cores, under autocast too.

References:
    Kuznetsov et al., A Prior of a Googol Gaussians, 2019: equations 1 and 2, algorithm 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tn_core.cores import Boundary, Cores, Grouped, group, take, without_autocast
from tn_core.evidence import Evidence, Part, Weights, weigh
from tn_core.plans import contract

__all__ = [
    "Boundary",
    "Cores",
    "Evidence",
    "Grouped",
    "log_or_minus_infinity",
    "log_partition",
    "log_probability",
    "marginals",
]


def log_or_minus_infinity(x: Tensor) -> Tensor:
    """log x, minus infinity with zero gradient (not NaN) at zero. NaN stays NaN."""
    zero = x == 0
    return torch.where(zero, -torch.inf, torch.log(torch.where(zero, 1, x)))


def log_partition(cores: Cores, log_evidence: Evidence = None, *, boundary: Boundary = "ring") -> Tensor:
    r"""Returns log Z(e), the log of the weight of all states under the evidence.

    Differentiable in the cores and in the evidence. Minus infinity where the evidence rules out every state. Within
    one product entries that are smaller than the largest by more than the dtype's range count as zero: with cores that
    hold exact zeros, evidence against all but such entries may underflow to minus infinity.

    Arguments:
        cores: (n, N, m, m), or a sequence of (N_k, m_k, m_{k+1}); non-negative.
        log_evidence: (\*batch, n, N), or a mapping from positions to (\*batch, N_k), or None for no evidence.
        boundary: "ring" (closed by a trace) or "train" (open, closed by vectors of ones).

    Returns:
        (\*batch,), in nats.

    Raises:
        ValueError: if a shape or the boundary is not as above.
    """
    chain = group(cores, boundary)
    weights = weigh(chain, log_evidence)
    return _log_z(chain, weights, boundary).reshape(weights.batch)


def log_probability(cores: Cores, log_evidence: Evidence = None, *, boundary: Boundary = "ring") -> Tensor:
    r"""Returns log Z(e) - log Z, the log of the probability of the evidence under the distribution of the chain.

    In one pass, in which the evidence gets one more row of which nothing is known: cheaper than a pass for log Z.

    Arguments and errors are those of :func:`log_partition`.

    Returns:
        (\*batch,), in nats; the log of an expectation where weights are likelihoods.
    """
    chain = group(cores, boundary)
    weights = weigh(chain, log_evidence)
    log_z = _log_z(chain, weights.with_a_row_of_nothing(), boundary)
    return (log_z[:-1] - log_z[-1]).reshape(weights.batch)


def _log_z(chain: Grouped, weights: Weights, boundary: Boundary) -> Tensor:
    """log Z of weights, (rows,), or () where nothing is batched."""
    with without_autocast(chain.like):
        z, log_scale = contract(chain, weights, boundary)
    return log_or_minus_infinity(z) + log_scale + weights.log_scale


def marginals(
    cores: Cores,
    log_evidence: Evidence = None,
    *,
    boundary: Boundary = "ring",
    variables: Sequence[int] | None = None,
    own_evidence: bool = True,
) -> Tensor:
    r"""Returns p(s_k | e) for every variable and value: d log Z(e) / d log e_k(s), by one backward pass.

    Differentiable in cores and evidence if they require gradients and gradients are enabled.

    Arguments:
        cores: as in :func:`log_partition`.
        log_evidence: as in :func:`log_partition`.
        boundary: "ring" or "train".
        variables: positions of the variables asked for, of which few cost less than all; None: all.
        own_evidence: False leaves a variable's own evidence out of its posterior: p(s_k | evidence of the others).

    Returns:
        (\*batch, variables, N) with N the largest number of values on the chain; zero where a value does not exist.

    Raises:
        ValueError: if a shape, the boundary or a position is not as above.
    """
    chain = group(cores, boundary)
    weights = weigh(chain, log_evidence)
    sizes = chain.sizes
    wanted = range(len(sizes)) if variables is None else list(variables)
    if not set(wanted) <= set(range(len(sizes))):
        raise ValueError(f"variables must be positions from 0 to {len(sizes) - 1}, got {list(wanted)}")
    tensors = (*(g for _, g in chain.groups), *(e for _, _, e in weights.parts))
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    # a derivative is taken here, which tensors made in inference mode do not allow: work on copies
    inference = torch.is_inference_mode_enabled()
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(chain.like):
        if not differentiable:
            chain = chain.with_cores([g.clone() if inference else g.detach() for _, g in chain.groups])
            copies = tuple((number, some, e.clone() if inference else e.detach()) for number, some, e in weights.parts)
            weights = Weights(weights.batch, copies, weights.log_scale)
        weights, asked = _ask(chain, weights, set(wanted))
        z, _ = contract(chain, weights, boundary)
        # dZ / de_k(s) is the weight of the value without its own evidence, right even where Z is zero
        slopes = torch.autograd.grad(z.sum(), [e for _, _, e in asked], create_graph=differentiable)
    found: dict[int, Tensor] = {}
    for (number, some, e), slope in zip(asked, slopes, strict=True):
        posterior = slope * (e if differentiable else e.detach()) if own_evidence else slope
        posterior = torch.nn.functional.pad(posterior, (0, max(sizes) - posterior.shape[-1]))
        found.update(zip((chain.groups[number][0][i] for i in some), posterior.unbind(0), strict=True))
    result = torch.stack([found[k] for k in wanted], 1)
    total = result.sum(-1, keepdim=True)
    return (result / torch.where(total > 0, total, 1)).reshape(*weights.batch, len(wanted), max(sizes))


def _ask(chain: Grouped, weights: Weights, wanted: set[int]) -> tuple[Weights, list[Part]]:
    """Evidence whose parts hold either variables that are wanted, and require gradients, or others; the former apart.

    Variables that are wanted and have no evidence get weights of one.
    """
    others: list[Part] = []
    asked: list[Part] = []
    without = {(number, i) for number, (ks, _) in enumerate(chain.groups) for i, k in enumerate(ks) if k in wanted}
    for number, some, e in weights.parts:
        ks = chain.groups[number][0]
        for is_wanted in (True, False):
            which = [j for j, i in enumerate(some) if (ks[i] in wanted) is is_wanted]
            if which:
                part = (number, tuple(some[j] for j in which), take(e, which))
                (asked if is_wanted else others).append(part)
                without -= {(number, i) for i in part[1]}
    for number, (_, g) in enumerate(chain.groups):
        missing = tuple(sorted(i for there, i in without if there == number))
        if missing:
            asked.append((number, missing, g.new_ones(len(missing), weights.rows, g.shape[1])))
    asked = [(number, some, e if e.requires_grad else e.requires_grad_()) for number, some, e in asked]
    return Weights(weights.batch, (*asked, *others), weights.log_scale), asked
