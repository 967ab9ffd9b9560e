r"""Evidence on a chain: one non-negative weight a variable and value, given as its logarithm.

One-hot for an observed variable, 0/1 for a set of values, a likelihood for soft evidence, ones for an unknown one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tn_core.cores import Grouped, take

__all__ = ["Evidence", "Part", "Weights", "by_position", "weigh"]

Given = Mapping[int | tuple[int, ...], Tensor]
Evidence = Tensor | Given | Mapping[int, Tensor] | Mapping[tuple[int, ...], Tensor] | None
r"""A tensor (\*batch, n, N), minus infinity where a value is ruled out or does not exist (N is the largest N_k); or a
mapping from positions k to tensors (\*batch, N_k), and from tuples of positions of equally many values to tensors
(\*batch, positions, N_k), all other variables being unknown; or None, all unknown."""


Part = tuple[int, tuple[int, ...], Tensor]
"""The number of a group of the chain, indices in that group, and weights (indices, rows, N)."""


@dataclass(frozen=True)
class Weights:
    """Evidence as weights of at most one, batch flattened.

    Attributes:
        batch: the batch shape; () if nothing is batched.
        parts: the variables that have evidence.
        log_scale: (rows,) or (), what was divided out.
    """

    batch: torch.Size
    parts: tuple[Part, ...]
    log_scale: Tensor

    @property
    def rows(self) -> int:
        """The number of batch entries."""
        return self.batch.numel()

    def with_a_row_of_nothing(self) -> "Weights":
        """The same rows, and one more of which nothing is known."""
        parts = tuple(
            (group, some, torch.cat([e, e.new_ones(len(e), 1, e.shape[2])], 1)) for group, some, e in self.parts
        )
        log_scale = self.log_scale.expand(self.rows)
        return Weights(torch.Size([self.rows + 1]), parts, torch.cat([log_scale, log_scale.new_zeros(1)]))

    def split(self, rows: int) -> "list[Weights]":
        """The evidence of so many rows at a time."""
        scales = self.log_scale.split(rows)
        pieces = [[(group, some, piece) for piece in e.split(rows, 1)] for group, some, e in self.parts]
        return [Weights(scale.shape, tuple(parts), scale) for scale, *parts in zip(scales, *pieces, strict=True)]


def weigh(chain: Grouped, log_evidence: Evidence) -> Weights:
    """Checks evidence and turns it into weights.

    Raises:
        ValueError: if a shape does not fit the chain, or a position is named twice.
    """
    sizes = chain.sizes
    n, largest = len(sizes), max(sizes)
    if log_evidence is None:
        return Weights(torch.Size(), (), chain.like.new_zeros(()))
    if isinstance(log_evidence, Tensor):
        if log_evidence.shape[-2:] != (n, largest):
            raise ValueError(
                f"log_evidence must have shape (*batch, {n}, {largest}) for this chain, got {tuple(log_evidence.shape)}"
            )
        batch = log_evidence.shape[:-2]
        given = [(tuple(range(n)), log_evidence)]
    else:
        batch = _check(log_evidence, sizes)
        given = [((k,), e.unsqueeze(-2)) if isinstance(k, int) else (k, e) for k, e in log_evidence.items()]
    # shape of each: (positions, rows, N)
    flat = [e.expand(*batch, *e.shape[-2:]).reshape(batch.numel(), *e.shape[-2:]).transpose(0, 1) for _, e in given]
    log_scale = chain.like.new_zeros(())
    parts: list[Part] = []
    for number, (positions, g) in enumerate(chain.groups):
        index = {k: i for i, k in enumerate(positions)}
        # all variables of a group together, in its order, so that the cores need not be put in another
        some: list[Tensor] = []
        places: list[tuple[int, int]] = []
        for (ks, _), e in zip(given, flat, strict=True):
            here = [(index[k], j) for j, k in enumerate(ks) if k in index]
            if here:
                before = sum(len(other) for other in some)
                places += [(i, before + j) for i, j in here]
                some.append(e)
        if some:
            places.sort()
            joined = some[0] if len(some) == 1 else torch.cat(some)
            found = take(joined, [j for _, j in places])[..., : g.shape[1]].to(g.dtype)
            peak = _peak(found)
            log_scale = log_scale + peak.sum((0, 2))
            parts.append((number, tuple(i for i, _ in places), _Exponentials.apply(found, peak)))
    return Weights(batch, tuple(parts), log_scale)


def _check(
    given: Given | Mapping[int, Tensor] | Mapping[tuple[int, ...], Tensor], sizes: tuple[int, ...]
) -> torch.Size:
    """Checks a mapping's evidence; returns its batch shape."""
    n = len(sizes)
    batches: dict[int | tuple[int, ...], torch.Size] = {}
    seen: set[int] = set()
    for key, e in given.items():
        ks = (key,) if isinstance(key, int) else key
        name = f"position {key}" if isinstance(key, int) else f"positions {key}"
        if not ks or not all(0 <= k < n for k in ks):
            raise ValueError(f"evidence at {name}: positions are 0 to {n - 1}")
        if len({sizes[k] for k in ks}) > 1:
            raise ValueError(f"evidence at {name} together needs equally many values, not {[sizes[k] for k in ks]}")
        last = (sizes[ks[0]],) if isinstance(key, int) else (len(ks), sizes[ks[0]])
        if e.shape[-len(last) :] != last:
            allowed = f"(*batch, {', '.join(map(str, last))})"
            raise ValueError(f"evidence at {name} must have shape {allowed}, got {tuple(e.shape)}")
        if len(set(ks)) < len(ks) or seen & set(ks):
            raise ValueError(f"evidence at {name} names a position twice")
        seen |= set(ks)
        batches[key] = e.shape[: -len(last)]
    try:
        return torch.broadcast_shapes(*batches.values())
    except RuntimeError:
        shapes = {key: tuple(batch) for key, batch in batches.items()}
        raise ValueError(f"the batch shapes of the evidence do not broadcast: {shapes}") from None


def _peak(log_weights: Tensor) -> Tensor:
    """The largest log weight of a variable, 0 where all are minus infinity; a constant to autograd."""
    peak = log_weights.detach().amax(-1, keepdim=True)
    return torch.where(torch.isfinite(peak), peak, 0)


class _Exponentials(torch.autograd.Function):
    """exp(log_weights - peak), contiguous, and zero where that is not a normal number.

    Processors take ten to a hundred times as long over subnormal numbers, here and in every product that meets one; and
    the weights of components far from a value would be full of them.
    """

    @staticmethod
    def forward(ctx: Any, log_weights: Tensor, peak: Tensor) -> Tensor:
        least = math.log(torch.finfo(log_weights.dtype).tiny) + 1
        weights = torch.empty_like(log_weights, memory_format=torch.contiguous_format)
        torch.sub(log_weights, peak, out=weights)
        functional.threshold(weights.clamp_min_(least).exp_(), 1.01 * math.exp(least), 0, inplace=True)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return grads[0] * weights, None


def by_position(chain: Grouped, weights: Weights) -> list[tuple[Tensor, Tensor | None]]:
    """For each variable in order its core (N, m, m) and its evidence (rows, N), None where unknown."""
    seen = {(group, i): row for group, some, e in weights.parts for i, row in zip(some, e.unbind(0), strict=True)}
    found = {
        k: (core, seen.get((group, i)))
        for group, (ks, g) in enumerate(chain.groups)
        for i, (k, core) in enumerate(zip(ks, g.unbind(0), strict=True))
    }
    return [found[k] for k in range(len(found))]
