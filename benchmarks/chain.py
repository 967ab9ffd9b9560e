"""``python -m benchmarks chain``: the chain's operations beside the sequential yardstick and the floor."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.measure import interleaved, peak_megabytes
from benchmarks.yardstick import Yardstick
from tn_core.cores import Boundary
from tn_priors import TRIP

COMPONENTS, LABELS, CLOSING, PRODUCT = 10, (10, 2), 4, 2048


def matrix_product(device: torch.device) -> Callable[[], object]:
    """A large product of matrices, whose rate the floor is reckoned by."""
    a = torch.randn(PRODUCT, PRODUCT, device=device)
    return lambda: a @ a


def arithmetic(rows: int, n: int, rank: int, carried: int) -> float:
    """Multiplications and additions of a log density: the matrices (or N products with vectors) and their product."""
    return 2.0 * rows * n * rank**2 * (COMPONENTS + (carried if carried > 1 else 0))


def by_rank(rank: int, n: int, rows: int, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Every operation at a core size, in one run with the yardstick and the large product of matrices."""
    torch.manual_seed(0)
    ring = TRIP(n, COMPONENTS, rank).to(device)
    labelled = TRIP(n, COMPONENTS, rank, labels=list(LABELS)).to(device)
    ours = {"ring": ring, "train": TRIP(n, COMPONENTS, rank, boundary="train").to(device)}
    if rank > CLOSING:
        ours[f"ring, closing rank {CLOSING}"] = TRIP(n, COMPONENTS, rank, closing_rank=CLOSING).to(device)
    plain, plain_labelled = Yardstick(ring), Yardstick(labelled)
    z = ring().sample((rows,))
    y = torch.stack([torch.randint(size, (rows,), device=device) for size in LABELS], 1)
    again = ring()

    cases: dict[str, Callable[[], object]] = {"matrix product": matrix_product(device)}
    for name, prior in ours.items():
        cases[f"{name}: log density"] = without_gradients(partial(density, prior, z))
        cases[f"{name}: log density + backward"] = partial(backward, prior, partial(density, prior), z)
    cases |= {
        "ring: sample": without_gradients(partial(draw, ring, rows)),
        "ring: sample again": without_gradients(lambda: again.sample((rows,))),
        "ring: sample given labels": without_gradients(lambda: labelled(y).sample()),
        "ring: imputation": without_gradients(lambda: labelled.label_posteriors(z)),
        "ring: rsample + backward": lambda: backward(ring, lambda: ring().rsample((rows,)).square()),
        "yardstick: log density": without_gradients(lambda: plain.log_prob(z)),
        "yardstick: log density + backward": lambda: backward(plain, plain.log_prob, z),
        "yardstick: sample": without_gradients(lambda: plain.sample(rows)),
        "yardstick: sample given labels": without_gradients(lambda: plain_labelled.sample(rows, y)),
        "yardstick: imputation": without_gradients(lambda: plain_labelled.label_posteriors(z)),
        "yardstick: rsample + backward": lambda: backward(plain, lambda: plain.sample(rows, pathwise=True).square()),
    }
    times = interleaved(cases, device, seconds)
    rate = 2 * PRODUCT**3 / times.pop("matrix product") * 1e3
    found = []
    for name, time in times.items():
        kind, operation = name.split(": ")
        row: dict[str, Any] = {"prior": kind, "operation": operation, "rank": rank, "n": n, "batch": rows, "ms": time}
        if kind != "yardstick":
            row["times faster than the yardstick"] = times[f"yardstick: {operation.removesuffix(' again')}"] / time
        if operation.startswith("log density"):
            carried = {"train": 1, f"ring, closing rank {CLOSING}": CLOSING}.get(kind, rank)
            # the way back costs twice the way there
            floor = arithmetic(rows, n, rank, carried) * (3 if "backward" in operation else 1) / rate * 1e3
            row |= {"floor ms": floor, "times the floor": time / floor}
        found.append(row | {"peak MB": peak_megabytes(cases[name], device)})
    return [{"operation": "matrix product", "rank": rank, "GFLOP/s": rate / 1e9}, *found]


def growth(n: int, rows: int, components: int, rank: int, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Time and memory of the log density and of samples by the numbers of variables, rows and components."""
    torch.manual_seed(0)
    found = []
    boundaries: tuple[Boundary, ...] = ("ring", "train")
    for boundary in boundaries:
        prior = TRIP(n, components, rank, boundary=boundary).to(device)
        z = prior().sample((rows,))
        cases: dict[str, Callable[[], object]] = {
            "log density": without_gradients(partial(density, prior, z)),
            "log density + backward": partial(backward, prior, partial(density, prior), z),
            "sample": without_gradients(partial(draw, prior, rows)),
        }
        for operation, time in interleaved(cases, device, seconds).items():
            row: dict[str, Any] = {"prior": boundary, "operation": operation, "rank": rank, "n": n, "batch": rows}
            row |= {"components": components, "ms": time}
            row["microseconds a variable and row"] = time * 1e3 / (n * rows)
            found.append(row | {"peak MB": peak_megabytes(cases[operation], device)})
    return found


def density(prior: TRIP, z: torch.Tensor) -> torch.Tensor:
    """log p(z), from the parameters."""
    return prior().log_prob(z)


def draw(prior: TRIP, rows: int) -> torch.Tensor:
    """Samples, from the parameters."""
    return prior().sample((rows,))


def without_gradients(run: Callable[[], object]) -> Callable[[], object]:
    """The same without autograd."""
    return torch.no_grad()(run)


def backward(module: torch.nn.Module, value: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
    """Gradients of the sum of a value with respect to a module's parameters and the inputs."""
    module.zero_grad()
    value(*(x.detach().requires_grad_() for x in inputs)).sum().backward()
