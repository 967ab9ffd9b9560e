"""``python -m benchmarks chain``: the chain's operations beside the sequential yardstick and the floor."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.measure import interleaved, peak_megabytes
from benchmarks.yardstick import Yardstick
from tn_priors import TRIP

COMPONENTS = 10
LABELS = (10, 2)


def matrix_product(device: torch.device) -> Callable[[], object]:
    """A large product of matrices, whose rate the floor is reckoned by."""
    a = torch.randn(2048, 2048, device=device)
    return lambda: a @ a


def rate_of(milliseconds: float) -> float:
    """Operations a second of :func:`matrix_product`."""
    return 2 * 2048**3 / milliseconds * 1e3


def arithmetic(rows: int, n: int, rank: int, carried: int) -> float:
    """Multiplications and additions of a log density: the matrices (or N products with vectors) and their product."""
    return 2.0 * rows * n * rank**2 * (COMPONENTS + (carried if carried > 1 else 0))


def by_rank(
    ranks: Sequence[int], n: int, rows: int, device: torch.device, yardstick: bool = True, seconds: float = 6.0
) -> list[dict[str, Any]]:
    """Every operation at some core sizes: a row for each."""
    found = []
    for rank in ranks:
        torch.manual_seed(0)
        ring = TRIP(n, COMPONENTS, rank).to(device)
        labelled = TRIP(n, COMPONENTS, rank, labels=list(LABELS)).to(device)
        train = TRIP(n, COMPONENTS, rank, boundary="train").to(device)
        z = ring().sample((rows,))
        y = torch.stack([torch.randint(size, (rows,), device=device) for size in LABELS], 1)
        ours = {"ring": ring, "train": train}
        if rank > 4:
            ours["ring, closing rank 4"] = TRIP(n, COMPONENTS, rank, closing_rank=4).to(device)
        cases: dict[str, Callable[[], object]] = {"matrix product": matrix_product(device)}
        for name, prior in ours.items():
            cases[f"{name}: log density"] = without_gradients(lambda p=prior: p().log_prob(z))
            cases[f"{name}: log density + backward"] = lambda p=prior: backward(p, lambda v: p().log_prob(v), z)
        cases["ring: sample"] = without_gradients(lambda: ring().sample((rows,)))
        again = ring()
        cases["ring: sample again"] = without_gradients(lambda: again.sample((rows,)))
        cases["ring: sample given labels"] = without_gradients(lambda: labelled(y).sample())
        cases["ring: imputation"] = without_gradients(lambda: labelled.label_posteriors(z))
        cases["ring: rsample + backward"] = lambda: backward(ring, lambda: ring().rsample((rows,)).square())
        if yardstick:
            plain, plain_labelled = Yardstick(ring), Yardstick(labelled)
            cases |= {
                "yardstick: log density": without_gradients(lambda: plain.log_prob(z)),
                "yardstick: log density + backward": lambda: backward(plain, plain.log_prob, z),
                "yardstick: sample": without_gradients(lambda: plain.sample(rows)),
                "yardstick: sample given labels": without_gradients(lambda: plain_labelled.sample(rows, y)),
                "yardstick: imputation": without_gradients(lambda: plain_labelled.label_posteriors(z)),
                "yardstick: rsample + backward": lambda: backward(
                    plain, lambda: plain.sample(rows, pathwise=True).square()
                ),
            }
        times = interleaved(cases, device, seconds)
        rate = rate_of(times.pop("matrix product"))
        for name, time in times.items():
            kind, operation = name.split(": ")
            row: dict[str, Any] = {"prior": kind, "operation": operation, "rank": rank, "n": n, "batch": rows, "ms": time}
            reference = times.get(f"yardstick: {operation}")
            if reference is not None and kind != "yardstick":
                row["times faster than the yardstick"] = reference / time
            if operation.startswith("log density"):
                carried = {"train": 1, "ring, closing rank 4": 4}.get(kind, rank)
                # the way back costs twice the way there
                floor = arithmetic(rows, n, rank, carried) * (3 if "backward" in operation else 1) / rate * 1e3
                row |= {"floor ms": floor, "times the floor": time / floor}
            row["peak MB"] = peak_megabytes(cases[name], device)
            found.append(row)
        found[-len(times)]["matrix product GFLOP/s"] = rate / 1e9
    return found


def growth(
    lengths: Sequence[int], batches: Sequence[int], rank: int, device: torch.device, seconds: float = 6.0
) -> list[dict[str, Any]]:
    """Time and memory of the log density's forward and backward pass and of samples, by n and by the batch."""
    found = []
    for n, rows in [(n, 128) for n in lengths] + [(100, rows) for rows in batches]:
        torch.manual_seed(0)
        for name, boundary in (("ring", "ring"), ("train", "train")):
            prior = TRIP(n, COMPONENTS, rank, boundary=boundary).to(device)  # type: ignore[arg-type]
            z = prior().sample((rows,))
            cases: dict[str, Callable[[], object]] = {
                "log density": without_gradients(lambda p=prior: p().log_prob(z)),
                "log density + backward": lambda p=prior: backward(p, lambda v: p().log_prob(v), z),
                "sample": without_gradients(lambda p=prior: p().sample((rows,))),
            }
            for operation, time in interleaved(cases, device, seconds).items():
                row = {"prior": name, "operation": operation, "rank": rank, "n": n, "batch": rows, "ms": time}
                row["microseconds a variable and row"] = time * 1e3 / (n * rows)
                row["peak MB"] = peak_megabytes(cases[operation], device)
                found.append(row)
    return found


def without_gradients(run: Callable[[], object]) -> Callable[[], object]:
    """The same without autograd."""
    return torch.no_grad()(run)


def backward(module: torch.nn.Module, value: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
    """Gradients of the sum of a value with respect to a module's parameters and the inputs."""
    module.zero_grad()
    value(*(x.detach().requires_grad_() for x in inputs)).sum().backward()  # type: ignore[no-untyped-call]
