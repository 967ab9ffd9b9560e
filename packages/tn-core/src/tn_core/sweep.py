r"""The product of a chain's matrices from left to right, and its derivative by one pass back (inside-outside).

A sweep carries a state S, some rows of the product so far, from site to site:

    matrices:  S <- S A_k,   A_k = sum_s e_k(s) G_k[s], formed for every batch row;
    vectors:   S <- sum_s (e_k(s) S) G_k[s], one product of all rows with the stacked core; for states of one row.

The way back needs the states before each site, which are kept, and forms the matrices A_k again. Nothing else of the
forward pass is stored. Where derivatives of derivatives are asked for, the way back is left to autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Sites", "sweep"]


@dataclass(frozen=True)
class Sites:
    """What a sweep goes over, and how.

    Attributes:
        steps: for each step the tensor of cores and the index in it, and the tensor of weights and the index in that
            (None: the site has no evidence).
        side: the number of equally long segments that are swept side by side, from a single tensor each; the index of
            a step then counts within the first segment.
        opening: what the state opens with: the first matrix, that many of its rows, or their sum.
        vectors: whether to go by vectors.
        logs: whether the tensors of cores are their logarithms, to be turned into cores a site at a time.
    """

    steps: tuple[tuple[int, int, tuple[int, int] | None], ...]
    side: int = 1
    opening: Literal["matrix", "sum"] | int = "matrix"
    vectors: bool = False
    logs: bool = False


def sweep(sites: Sites, rows: int, cores: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sweeps over the sites; states are divided by their largest entry on the way.

    Arguments:
        sites: what to sweep over.
        rows: the batch.
        cores: tensors (sites, N, m, m), the cores or their logarithms.
        weights: tensors (sites, rows, N).

    Returns:
        The states after the last site (side, rows, r, m), and the log of what was divided out of them (side, rows).
    """
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (*cores, *weights))
    if differentiable and not torch.compiler.is_compiling():
        state, log_scale = _Sweep.apply(sites, rows, len(cores), *cores, *weights)
    else:
        workspace = None if differentiable or torch.compiler.is_compiling() else _Workspace()
        state, log_scale, _, _ = _forward(sites, rows, cores, weights, workspace, ())
    return state, log_scale


class _Workspace:
    """Results that are overwritten step by step: fresh memory for each would cost as much as the arithmetic."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def bmm(self, name: str, left: Tensor, right: Tensor) -> Tensor:
        """The batched product, where the last one of the same name was."""
        key = (name, (left.shape[0], left.shape[1], right.shape[2]))
        if key not in self._found:
            self._found[key] = left.new_empty(key[1])
        return torch.bmm(left, right, out=self._found[key])

    def exp(self, logs: Tensor) -> Tensor:
        """The exponentials, where the last ones of the same shape were."""
        key = ("exp", tuple(logs.shape))
        if key not in self._found:
            self._found[key] = torch.empty_like(logs)
        return torch.exp(logs, out=self._found[key])


def _bmm(workspace: _Workspace | None, name: str, left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left, right) if workspace is None else workspace.bmm(name, left, right)


class _Sweep(torch.autograd.Function):
    """The sweep with its own derivative."""

    @staticmethod
    def forward(ctx: Any, sites: Sites, rows: int, count: int, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        needed = ctx.needs_input_grad[3:]
        # the way back needs the states before the sites whose gradients are asked for
        keep = [
            needed[tensor] or (evidence is not None and needed[count + evidence[0]])
            for tensor, _, evidence in sites.steps
        ]
        state, log_scale, states, scales = _forward(sites, rows, tensors[:count], tensors[count:], _Workspace(), keep)
        ctx.sites, ctx.rows, ctx.count, ctx.inputs = sites, rows, count, len(tensors)
        ctx.save_for_backward(*tensors, *states, *scales)
        ctx.mark_non_differentiable(log_scale)
        return state, log_scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, no_gradient: Tensor) -> tuple[Tensor | None, ...]:
        sites, count = ctx.sites, ctx.count
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # once only: checkpoints forget what was unpacked
        tensors, kept = saved[: ctx.inputs], saved[ctx.inputs :]
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # create_graph=True
            state, _, _, _ = _forward(sites, ctx.rows, tensors[:count], tensors[count:], None, ())
            inputs = [t for t, need in zip(tensors, needed, strict=True) if need]
            some = iter(torch.autograd.grad(state, inputs, gradient, create_graph=True))
            return (None, None, None, *(next(some) if need else None for need in needed))
        before = len(sites.steps) - 1
        slots = [torch.empty_like(t) if need else None for t, need in zip(tensors, needed, strict=True)]
        _backward(sites, tensors, count, kept[:before], kept[before:], gradient, slots)
        return (None, None, None, *slots)


def _side_by_side(stack: Tensor, side: int) -> Sequence[Tensor]:
    """The sites of a stack by step: views (side, ...)."""
    if side == 1:
        return stack.unsqueeze(1).unbind(0)
    length = len(stack) // side
    return [stack[i::length] for i in range(length)]


def _forward(
    sites: Sites,
    rows: int,
    cores: Sequence[Tensor],
    weights: Sequence[Tensor],
    workspace: _Workspace | None,
    keep: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor | None], list[Tensor]]:
    """The last state, the log of the scales, the states before each step but the first that are kept, and the scales.

    Which states are kept is said for each step; nothing: none.
    """
    core_sites = [_side_by_side(t.flatten(2), sites.side) for t in cores]
    m = cores[0].shape[-1]
    weight_sites = [_side_by_side(t, sites.side) for t in weights]
    states: list[Tensor | None] = []
    scales: list[Tensor] = []
    state: Tensor | None = None
    for step, (tensor, index, evidence) in enumerate(sites.steps):
        g = core_sites[tensor][index]
        if sites.logs:
            g = g.exp() if workspace is None else workspace.exp(g)
        e = None if evidence is None else weight_sites[evidence[0]][evidence[1]]
        scale = None
        if state is not None:
            # one where the state is zero
            scale = torch.threshold(
                state.detach().view(sites.side, rows, state.shape[1] * m).amax(2, keepdim=True), 0, 1
            )
            scales.append(scale)
            if keep:
                states.append(state if keep[step] else None)
        # a state that is not kept makes room for the one after the next
        kept = step + 1 < len(keep) and keep[step + 1]
        place = None if kept else f"state {step % 2}"
        state = _advance(sites, rows, m, state, scale, g, e, workspace, place)
    assert state is not None
    log_scale = torch.cat(scales, 2).log().sum(2) if scales else state.detach().new_zeros(sites.side, rows)
    return state.unflatten(0, (sites.side, rows)), log_scale, states, scales


def _scaled(e: Tensor, scale: Tensor | None) -> Tensor:
    """The weights (side, rows, N) of the next site take the scale (side, rows, 1) of the state."""
    return e if scale is None else e / scale


def _advance(
    sites: Sites,
    rows: int,
    m: int,
    state: Tensor | None,
    scale: Tensor | None,
    g: Tensor,
    e: Tensor | None,
    workspace: _Workspace | None,
    place: str | None,
) -> Tensor:
    """The state (side * rows, r, m) after a site with cores (side, N, m * m) and weights (side, rows, N)."""
    if e is None:
        matrix = g.sum(1).view(1, m, m)  # the same for all rows; such sites are never side by side
        if state is None or scale is None:
            return _open(sites, matrix).expand(rows, -1, -1).contiguous()
        return (state.flatten(0, 1) @ matrix[0]).view_as(state) / scale.view(rows, 1, 1)
    if sites.vectors:
        v = g.new_ones(rows, 1, m) if state is None else state
        weighted = _scaled(e, scale)[0].unsqueeze(2) * v  # shape: (rows, N, m)
        return (weighted.flatten(1) @ g.view(-1, m)).unsqueeze(1)
    if state is None:
        return _open(sites, torch.bmm(e, g).view(-1, m, m))
    matrices = _bmm(workspace, "matrices", _scaled(e, scale), g).view(-1, m, m)
    return torch.bmm(state, matrices) if place is None else _bmm(workspace, place, state, matrices)


def _open(sites: Sites, matrices: Tensor) -> Tensor:
    """What the state opens with: (side * rows, r, m)."""
    if sites.opening == "matrix":
        return matrices
    return matrices.sum(1, keepdim=True) if sites.opening == "sum" else matrices[:, : sites.opening].contiguous()


def _opened_gradient(sites: Sites, after: Tensor) -> Tensor:
    """The gradient of the first matrices (side * rows, m, m), from that of what the state opened with."""
    m = after.shape[-1]
    if sites.opening == "matrix":
        return after
    if sites.opening == "sum":
        return after.expand(-1, m, -1).contiguous()
    return functional.pad(after, (0, 0, 0, m - sites.opening))


def _backward(
    sites: Sites,
    tensors: Sequence[Tensor],
    count: int,
    states: Sequence[Tensor | None],
    scales: Sequence[Tensor],
    gradient: Tensor,
    found: Sequence[Tensor | None],
) -> None:
    """Fills the gradients of the tensors, from that of the last state (side, rows, r, m)."""
    by_step = [_side_by_side(t.flatten(2), sites.side) for t in tensors]
    slots = [None if t is None else _side_by_side(t.flatten(2), sites.side) for t in found]
    m = tensors[0].shape[-1]

    def slot(tensor: int, index: int) -> Tensor | None:
        there = slots[tensor]
        return None if there is None else there[index]

    targets = [
        (slot(tensor, index), None if evidence is None else slot(count + evidence[0], evidence[1]))
        for tensor, index, evidence in sites.steps
    ]
    # nothing is asked for before the first of these steps
    first = next(j for j, target in enumerate(targets) if target != (None, None))
    after = gradient.flatten(0, 1).contiguous()
    workspace = _Workspace()
    for j in range(len(sites.steps) - 1, first - 1, -1):
        tensor, index, evidence = sites.steps[j]
        g = workspace.exp(by_step[tensor][index]) if sites.logs else by_step[tensor][index]
        e = None if evidence is None else by_step[count + evidence[0]][evidence[1]]
        state, scale = (states[j - 1], scales[j - 1]) if j else (None, None)
        retreat = _retreat_shared if e is None else _retreat_vectors if sites.vectors else _retreat_matrices
        place = f"after {j % 2}" if j > first else None
        after = retreat(sites, m, state, scale, g, e, after, *targets[j], workspace, place)  # type: ignore[arg-type]
        core_slot, _ = targets[j]
        if sites.logs and core_slot is not None:
            core_slot.mul_(g)  # the derivative of an exponential


# The ways back through _advance: each fills the slots of its site's gradients, and returns the gradient of the state
# before the site if it is needed (``place``: where in the workspace).


def _retreat_matrices(
    sites: Sites,
    m: int,
    state: Tensor | None,
    scale: Tensor | None,
    g: Tensor,
    e: Tensor,
    after: Tensor,
    core_slot: Tensor | None,
    weight_slot: Tensor | None,
    workspace: _Workspace,
    place: str | None,
) -> Tensor:
    scaled = _scaled(e, scale)
    if core_slot is not None or weight_slot is not None:
        outer = _opened_gradient(sites, after) if state is None else workspace.bmm("outer", state.mT, after)
        outer = outer.view(*scaled.shape[:2], m * m)  # the gradient of the matrices A
        if weight_slot is not None:
            weight_slot.copy_(_scaled(torch.bmm(outer, g.mT), scale))
        if core_slot is not None and core_slot.is_contiguous():
            torch.bmm(scaled.mT, outer, out=core_slot)
        elif core_slot is not None:
            core_slot.copy_(torch.bmm(scaled.mT, outer))
    if place is None:
        return after
    matrices = workspace.bmm("matrices", scaled, g).view(-1, m, m)
    return workspace.bmm(place, after, matrices.mT)


def _retreat_vectors(
    sites: Sites,
    m: int,
    state: Tensor | None,
    scale: Tensor | None,
    g: Tensor,
    e: Tensor,
    after: Tensor,
    core_slot: Tensor | None,
    weight_slot: Tensor | None,
    workspace: _Workspace,
    place: str | None,
) -> Tensor:
    _, rows, values = e.shape
    core, after = g.view(values * m, m), after.squeeze(1)
    v = g.new_ones(rows, 1, m) if state is None else state
    scaled = _scaled(e, scale)[0]
    slopes = (after @ core.T).view(rows, values, m)  # the gradient of the weighted states (e S)
    if core_slot is not None:
        torch.mm((scaled.unsqueeze(2) * v).flatten(1).T, after, out=core_slot.view(values * m, m))
    if weight_slot is not None:
        weight_slot.copy_(_scaled(torch.bmm(slopes, v.mT).view(1, rows, values), scale))
    return after if place is None else torch.bmm(scaled.unsqueeze(1), slopes)


def _retreat_shared(
    sites: Sites,
    m: int,
    state: Tensor | None,
    scale: Tensor | None,
    g: Tensor,
    e: None,
    after: Tensor,
    core_slot: Tensor | None,
    weight_slot: None,
    workspace: _Workspace,
    place: str | None,
) -> Tensor:
    if scale is None:
        if core_slot is not None:
            core_slot.copy_(_opened_gradient(sites, after).sum(0).flatten())
        return after
    after = after / scale.view(-1, 1, 1)
    if core_slot is not None and state is not None:
        core_slot.copy_((state.flatten(0, 1).T @ after.flatten(0, 1)).flatten())
    return (after.flatten(0, 1) @ g.sum(1).view(m, m).T).view_as(after) if place else after
