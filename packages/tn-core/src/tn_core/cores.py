r"""The cores of a chain: their shapes, their checks, and how they are stacked for fast arithmetic.

A chain over n discrete variables weighs a state s = (s_1, ..., s_n) by

    ring:   W[s] = Tr(G_1[s_1] G_2[s_2] ... G_n[s_n])
    train:  W[s] = 1' G_1[s_1] G_2[s_2] ... G_n[s_n] 1

with non-negative matrices G_k[s] of shape (m_k, m_{k+1}); a ring closes: m_{n+1} = m_1.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Boundary", "Cores", "Grouped", "group", "index_on", "take", "without_autocast"]

Boundary = Literal["ring", "train"]


@dataclass(frozen=True)
class Grouped:
    """Cores stacked by their number of values, bonds padded with zeros to one width.

    Padding is exact: a zero row or column adds nothing to a trace or to a sum.

    Attributes:
        groups: pairs of positions, ascending, and cores (len(positions), N, m, m).
        bonds: the widths m_1, ..., m_{n+1} before padding.
        logs: whether the tensors are logarithms of the cores; see :attr:`plain`.
        cache: what was computed from these cores and may be needed again.
    """

    groups: tuple[tuple[tuple[int, ...], Tensor], ...]
    bonds: tuple[int, ...]
    logs: bool = False
    cache: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each variable."""
        if "sizes" not in self.cache:
            sizes = {k: g.shape[1] for positions, g in self.groups for k in positions}
            self.cache["sizes"] = tuple(sizes[k] for k in range(len(sizes)))
        found: tuple[int, ...] = self.cache["sizes"]
        return found

    @property
    def like(self) -> Tensor:
        """Any of the tensors, for dtype and device."""
        return self.groups[0][1]

    @property
    def width(self) -> int:
        """The padded bond width m."""
        return self.like.shape[-1]

    @property
    def plain(self) -> "Grouped":
        """The same chain without logarithms; computed once for every mode of autograd."""
        if not self.logs:
            return self
        if torch.compiler.is_compiling():
            return Grouped(tuple((ks, g.exp()) for ks, g in self.groups), self.bonds)
        mode = ("plain", torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        if mode not in self.cache:
            self.cache[mode] = Grouped(tuple((ks, g.exp()) for ks, g in self.groups), self.bonds)
        found: Grouped = self.cache[mode]
        return found

    def with_cores(self, cores: Sequence[Tensor]) -> "Grouped":
        """The same chain with other tensors."""
        return replace(self, groups=tuple((ks, g) for (ks, _), g in zip(self.groups, cores, strict=True)))


Cores = Tensor | Sequence[Tensor] | Grouped


def group(cores: Cores, boundary: Boundary) -> Grouped:
    """Checks cores and stacks them; those that are stacked stay as they are.

    Raises:
        ValueError: if the shapes do not make a chain.
    """
    if boundary not in ("ring", "train"):
        raise ValueError(f"boundary must be 'ring' or 'train', got {boundary!r}")
    if isinstance(cores, Grouped):
        return cores
    if isinstance(cores, Tensor):
        if cores.ndim != 4 or cores.shape[2] != cores.shape[3] or 0 in cores.shape:
            raise ValueError(f"cores must have shape (n, N, m, m), none of them 0; got {tuple(cores.shape)}")
        n, m = cores.shape[0], cores.shape[2]
        return Grouped(((tuple(range(n)), cores),), (m,) * (n + 1))
    if not cores:
        raise ValueError("a chain needs at least one core")
    for k, g in enumerate(cores):
        if g.ndim != 3 or 0 in g.shape:
            raise ValueError(f"core {k} must have shape (N, m_left, m_right), none of them 0; got {tuple(g.shape)}")
        if k and g.shape[1] != cores[k - 1].shape[2]:
            raise ValueError(
                f"core {k} has left bond {g.shape[1]}, core {k - 1} has right bond {cores[k - 1].shape[2]}"
            )
    bonds = (*(g.shape[1] for g in cores), cores[-1].shape[2])
    if boundary == "ring" and bonds[0] != bonds[-1]:
        raise ValueError(f"a ring must close: its first bond is {bonds[0]}, its last is {bonds[-1]}")
    m = max(bonds)
    positions: dict[int, list[int]] = {}
    for k, g in enumerate(cores):
        positions.setdefault(g.shape[0], []).append(k)
    pad = [torch.nn.functional.pad(g, (0, m - g.shape[2], 0, m - g.shape[1])) for g in cores]
    return Grouped(tuple((tuple(ks), torch.stack([pad[k] for k in ks])) for ks in positions.values()), bonds)


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """A context in which products keep the dtype of their factors.

    A chain multiplies hundreds of matrices: rounded to bfloat16, its logarithm would be off by tenths of a nat.
    """
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def take(stack: Tensor, index: Sequence[int]) -> Tensor:
    """Selects along the first axis, as a view where the index is a range."""
    if len(index) == 1:
        return stack[index[0] : index[0] + 1]
    step = index[1] - index[0]
    if step > 0 and list(index) == list(range(index[0], index[-1] + 1, step)):
        return stack[index[0] : index[-1] + 1 : step]
    return stack.index_select(0, index_on(tuple(index), stack.device))


def index_on(index: tuple[int, ...], device: torch.device) -> Tensor:
    """A tensor of indices on a device; copied there once, as a copy makes the host wait for the device."""
    if torch.compiler.is_compiling():
        return torch.tensor(index, device=device)
    return _index_on(index, device)


@lru_cache(maxsize=4096)
def _index_on(index: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # or autograd could not save it later
        return torch.tensor(index, device=device)
