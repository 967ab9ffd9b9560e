"""The chain by definition: every state enumerated, every weight a product of matrices; no code of the package."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tn_core.chain import Boundary

__all__ = ["KINDS", "chain_of", "dense", "evidence_for", "log_weights", "posterior", "sizes_of", "states_of"]

SIZES = (3, 2, 1, 4, 2, 3, 2)
BONDS = (2, 3, 1, 2, 4, 3, 2)
KINDS = ("ring", "train", "mixed-ring", "mixed-train", "closed-train")


def chain_of(
    kind: str, n: int, dtype: torch.dtype = torch.float64, zeros: bool = False
) -> tuple[list[Tensor], Boundary]:
    """Random cores of one of ``KINDS`` as a list, and their boundary.

    "ring" and "train" have equal cores; "mixed-" have their own number of values and bond width each, with open ends
    wider than one; "closed-train" has m_1 = m_{n+1} = 1. ``zeros``: a third of the entries are exactly zero.
    """
    boundary: Boundary = "ring" if kind.endswith("ring") else "train"
    if kind in ("ring", "train"):
        sizes, bonds = [3 if n < 6 else 2] * n, [3] * (n + 1)
    else:
        sizes, bonds = list(SIZES[:n]), [*BONDS[:n], BONDS[n % len(BONDS)]]
        if kind == "mixed-ring":
            bonds[-1] = bonds[0]
        if kind == "closed-train":
            bonds[0] = bonds[-1] = 1
    cores = [torch.rand(size, bonds[k], bonds[k + 1], dtype=dtype) for k, size in enumerate(sizes)]
    if zeros:
        cores = [g * (torch.rand_like(g) > 1 / 3) for g in cores]
    return cores, boundary


def sizes_of(cores: Sequence[Tensor]) -> list[int]:
    """The number of values of each variable."""
    return [len(g) for g in cores]


def states_of(sizes: Sequence[int]) -> Tensor:
    """All states in lexicographic order, (states, n)."""
    return torch.tensor(list(itertools.product(*(range(size) for size in sizes))))


def evidence_for(sizes: Sequence[int], batch: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Evidence (*batch, n, N) that is observed, set-valued, soft or unknown, drawn for each row and variable."""
    n, largest = len(sizes), max(sizes)
    soft = 3 * torch.randn(*batch, n, largest, dtype=dtype)
    exists = torch.arange(largest) < torch.tensor(sizes).unsqueeze(1)
    pick = (torch.rand(*batch, n, 1) * torch.tensor(sizes).unsqueeze(1)).long()  # a value that exists
    one_hot = torch.arange(largest) == pick
    some = one_hot | (torch.rand(*batch, n, largest) < 0.5)
    what = torch.randint(4, (*batch, n, 1))
    allowed = torch.where(what == 0, one_hot, torch.where(what == 1, some, True)) & exists
    value = torch.where(what == 2, soft, torch.zeros_like(soft))
    return torch.where(allowed, value, -torch.inf)


def dense(sizes: Sequence[int], evidence: Tensor | Mapping[int, Tensor] | None) -> Tensor:
    """Any evidence as one tensor (*batch, n, N)."""
    if isinstance(evidence, Tensor):
        return evidence
    given = evidence or {}
    batch = torch.broadcast_shapes(*(e.shape[:-1] for e in given.values()))  # type: ignore[no-untyped-call]
    exists = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
    full = torch.where(exists, 0.0, -torch.inf).double().repeat(*batch, 1, 1)
    for k, e in given.items():
        full[..., k, : sizes[k]] = e
    return full


def log_weights(cores: Sequence[Tensor], boundary: Boundary, evidence: Tensor | Mapping[int, Tensor] | None) -> Tensor:
    """log W[s] + sum_k log e_k(s_k) of every state, (*batch, states)."""
    sizes = sizes_of(cores)
    weights = []
    for state in states_of(sizes).tolist():
        product = cores[0][state[0]]
        for g, s in zip(cores[1:], state[1:], strict=True):
            product = product @ g[s]
        weights.append(product.trace() if boundary == "ring" else product.sum())
    states = states_of(sizes)
    e = dense(sizes, evidence)
    own = torch.stack([e[..., k, :][..., states[:, k]] for k in range(len(sizes))])
    return torch.stack(weights).log() + own.sum(0)


def posterior(
    cores: Sequence[Tensor], boundary: Boundary, evidence: Tensor | Mapping[int, Tensor] | None, own_evidence: bool
) -> Tensor:
    """p(s_k | e) by adding up states, (*batch, n, N); zero if the evidence is impossible."""
    sizes = sizes_of(cores)
    states, e = states_of(sizes), dense(sizes, evidence)
    found = torch.zeros(e.shape, dtype=cores[0].dtype)
    for k, size in enumerate(sizes):
        seen = e.clone()
        if not own_evidence:
            seen[..., k, :size] = 0
        log_w = log_weights(cores, boundary, seen)
        w = (log_w - log_w.amax(-1, keepdim=True)).exp().nan_to_num(0)
        for s in range(size):
            found[..., k, s] = w[..., states[:, k] == s].sum(-1)
    total = found.sum(-1, keepdim=True)
    return found / torch.where(total > 0, total, 1)
