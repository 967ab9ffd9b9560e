"""The learnable chain: a module that owns the cores."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tn_core.chain import log_partition, marginals
from tn_core.cores import Boundary, Grouped
from tn_core.evidence import Evidence
from tn_core.modes import mode
from tn_core.sampling import sample

__all__ = ["TensorChain"]


class TensorChain(nn.Module):
    r"""A learnable non-negative chain over discrete variables.

    The parameters are the logarithms of the cores, so that an optimiser's step changes every entry by a factor: the
    many entries near zero stay there unless the data call for them. (The papers take absolute values or squares, where
    a step of Adam moves all entries by the same amount; from rank 50 on that drowns the structure in noise.) Variables
    whose cores have equal shapes share one parameter, (variables, N, m, m).

    Two ways to start. "mixture" starts at a mixture of m products of independent variables, carried round by the bond:
    G_k[s] = diag(p_k(s | bond)), plus noise on every entry. Dependence is there from the first step and the bonds learn
    to differ. "random" draws every entry uniformly; the dependence between neighbours then shrinks as the rank grows,
    and has to be learned from almost nothing.

    Arguments:
        sizes: the number of values of each variable.
        rank: the width m of every bond.
        boundary: "ring" or "train".
        closing_rank: the width of a ring's bond between the last variable and the first; None: the rank. The cost of a
            sweep is in proportion to it: 1 is as cheap as a train, which it is but for the ends.
        start: "mixture" or "random".
        noise: for "mixture", the size of the noise on every entry relative to the entries on the diagonal.
        learnable: False fixes the cores.

    Raises:
        ValueError: if a size or the rank is below 1, the closing rank is not from 1 to the rank or given for a train,
            or the boundary or start is unknown.

    Example:
        >>> chain = TensorChain([3, 3, 2], rank=4)
        >>> chain.log_partition().shape
        torch.Size([])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rank: int,
        boundary: Boundary = "ring",
        *,
        closing_rank: int | None = None,
        start: Literal["mixture", "random"] = "mixture",
        noise: float = 0.02,
        learnable: bool = True,
    ) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(f"every variable needs at least one value, got sizes {list(sizes)}")
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if boundary not in ("ring", "train"):
            raise ValueError(f"boundary must be 'ring' or 'train', got {boundary!r}")
        if closing_rank is not None and boundary == "train":
            raise ValueError("a train has no closing bond: closing_rank is for rings")
        if closing_rank is not None and not 1 <= closing_rank <= rank:
            raise ValueError(f"closing_rank must be from 1 to the rank {rank}, got {closing_rank}")
        if start not in ("mixture", "random"):
            raise ValueError(f"start must be 'mixture' or 'random', got {start!r}")
        if not noise >= 0:
            raise ValueError(f"noise must not be negative, got {noise}")
        self.rank = rank
        self.boundary: Boundary = boundary
        self.noise = noise
        closing = rank if closing_rank is None else closing_rank
        self.bonds = (closing, *[rank] * (len(sizes) - 1), closing)
        self.sizes = tuple(sizes)
        self._positions = self._by_parameter(sizes)
        for name, ks in self._positions.items():
            k = ks[0]
            empty = torch.empty(len(ks), sizes[k], self.bonds[k], self.bonds[k + 1])
            self.register_parameter(name, nn.Parameter(empty, requires_grad=learnable))
        self.set_random()
        if start == "mixture":
            # each bond value prefers some values of each variable: a Dirichlet(1) table, so that bonds differ
            tables = [-torch.rand(rank, size).clamp_min(1e-6).log() for size in sizes]
            self.set_mixture(torch.ones(rank), tables)

    def _by_parameter(self, sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The positions of the cores of each parameter, ascending."""
        positions: dict[str, tuple[int, ...]] = {}
        for k, size in enumerate(sizes):
            name = _name((size, self.bonds[k], self.bonds[k + 1]), self.rank)
            positions[name] = (*positions.get(name, ()), k)
        return positions

    def arrange(self, sizes: Sequence[int]) -> None:
        """Puts the variables' sizes in another order; the cores of one shape go to its positions in the order they had.

        Raises:
            ValueError: if cores of other shapes would be needed; the ends of a narrower closing bond keep their sizes.
        """
        positions = self._by_parameter(sizes)
        if {name: len(ks) for name, ks in positions.items()} != {name: len(ks) for name, ks in self._positions.items()}:
            raise ValueError(f"sizes must be those of the cores, {self.sizes}, in another order, got {tuple(sizes)}")
        self.sizes, self._positions = tuple(sizes), positions

    @property
    def cores(self) -> Grouped:
        """The cores, as the functions of this package take them."""
        groups = []
        for name, ks in self._positions.items():
            log_cores: Tensor = self.get_parameter(name)
            _, _, left, right = log_cores.shape
            if left < self.rank or right < self.rank:
                narrow = (0, self.rank - right, 0, self.rank - left)
                log_cores = nn.functional.pad(log_cores, narrow, value=-math.inf)
            groups.append((ks, log_cores))
        return Grouped(tuple(groups), self.bonds, logs=True)

    @torch.no_grad()
    def set_random(self) -> None:
        """Draws every entry of every core uniformly from [0, 1)."""
        for log_cores in self.parameters():
            log_cores.copy_(torch.rand_like(log_cores).clamp_min(1e-6).log())

    @torch.no_grad()
    def set_mixture(
        self,
        weights: Tensor,
        tables: Sequence[Tensor],
        noise: float | None = None,
        blocks: Sequence[int] = (0,),
    ) -> None:
        """Writes a mixture of products of independent variables into the cores, or one for each block of variables.

        Blocks are independent of each other: at the start of each the component is drawn anew.

        Arguments:
            weights: (m,), the weight of each component, or (blocks, m); non-negative.
            tables: for each variable (m, N_k), non-negative: the probabilities of its values in each component.
            noise: as in the constructor, None for the same. The noise lets a state change from one bond to the next.
            blocks: the position at which each block starts, the first at 0.

        Raises:
            ValueError: if a shape is not as above, or a number is negative, or a row is all zero.
        """
        noise = self.noise if noise is None else noise
        if list(blocks) != sorted({0, *blocks}) or blocks[-1] >= len(self.sizes):
            raise ValueError(f"blocks start at 0 and at growing positions below {len(self.sizes)}, got {list(blocks)}")
        weights = weights.expand(len(blocks), -1) if weights.ndim == 1 else weights
        shapes = [tuple(t.shape) for t in tables]
        if weights.shape != (len(blocks), self.rank) or shapes != [(self.rank, s) for s in self.sizes]:
            raise ValueError(
                f"expected weights ({self.rank},) or ({len(blocks)}, {self.rank}) and a table ({self.rank}, N_k) for "
                f"each of the sizes {self.sizes}"
            )
        if noise < 0:
            raise ValueError(f"noise must not be negative, got {noise}")
        if not all(bool((t.sum(1) > 0).all()) and bool((t >= 0).all()) for t in [weights, *tables]):
            raise ValueError("weights and tables must not be negative, and every row must have a positive sum")
        tables = [t / t.sum(1, keepdim=True) for t in tables]
        for k, w in zip(blocks, weights, strict=True):
            tables[k] = tables[k] * (w / w.sum()).unsqueeze(1)
        anew = blocks if len(blocks) > 1 else ()
        for name, ks in self._positions.items():
            log_cores = self.get_parameter(name)
            diagonal = torch.stack([tables[k] for k in ks]).to(log_cores).transpose(1, 2)  # shape: (group, N, m)
            # noise in the scale of a typical entry, spread over the row of the bond
            scale = noise * diagonal.mean((1, 2))[:, None, None, None] / self.rank
            entries = scale * 2 * torch.rand_like(log_cores)
            # a narrower bond carries several components in each of its values
            _, _, left, right = log_cores.shape
            component = torch.arange(self.rank, device=log_cores.device)
            before, after = component % left, component % right
            for i, k in enumerate(ks):
                if k in anew:  # whatever the component before
                    from_any = torch.zeros_like(entries[i, :, 0]).index_add_(1, after, diagonal[i])
                    entries[i] += from_any.unsqueeze(1) / left
                else:
                    entries[i].flatten(1).index_add_(1, before * right + after, diagonal[i])
            log_cores.copy_(entries.clamp_min(1e-12).log())

    def log_partition(self, log_evidence: Evidence = None) -> Tensor:
        """See :func:`tn_core.log_partition`."""
        return log_partition(self.cores, log_evidence, boundary=self.boundary)

    def marginals(
        self, log_evidence: Evidence = None, *, variables: Sequence[int] | None = None, own_evidence: bool = True
    ) -> Tensor:
        """See :func:`tn_core.marginals`."""
        return marginals(
            self.cores, log_evidence, boundary=self.boundary, variables=variables, own_evidence=own_evidence
        )

    def sample(self, log_evidence: Evidence = None, sample_shape: Sequence[int] = ()) -> Tensor:
        """See :func:`tn_core.sample`."""
        return sample(self.cores, log_evidence, sample_shape, boundary=self.boundary)

    def mode(
        self, log_evidence: Evidence = None, *, beam: int = 256, variables: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :func:`tn_core.mode`."""
        return mode(self.cores, log_evidence, boundary=self.boundary, beam=beam, variables=variables)

    def extra_repr(self) -> str:
        """Sizes, ranks and boundary."""
        closing = f", closing_rank={self.bonds[0]}" if self.bonds[0] < self.rank else ""
        return f"variables={len(self.sizes)}, rank={self.rank}{closing}, boundary={self.boundary!r}"


def _name(shape: tuple[int, int, int], rank: int) -> str:
    """The name of the parameter of the cores of a shape; the bonds are named where they are narrower than the rank."""
    size, left, right = shape
    return f"log_cores_{size}" if left == right == rank else f"log_cores_{size}_{left}x{right}"
