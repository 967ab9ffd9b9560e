"""Every plan of the contraction at several sizes: what the constants of the cost function are fitted to."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch

from benchmarks.chain import COMPONENTS, backward, without_gradients
from benchmarks.measure import interleaved
from tn_core.cores import Boundary
from tn_core.evidence import weigh
from tn_core.plans import Plan, choose, contract, shape_of
from tn_core.tensor_chain import TensorChain

PLANS = [Plan("tree"), Plan("matrices"), Plan("matrices", 4), Plan("vectors")]


def every_plan(
    lengths: list[int], ranks: list[int], batches: list[int], device: torch.device, seconds: float
) -> list[dict[str, Any]]:
    """Milliseconds of log Z of evidence on all variables, and with the backward pass, by plan; and the plan chosen."""
    found = []
    boundaries: tuple[Boundary, ...] = ("ring", "train")
    for n, rank, rows, boundary in product(lengths, ranks, batches, boundaries):
        torch.manual_seed(0)
        chain = TensorChain([COMPONENTS] * n, rank, boundary).to(device)
        evidence = torch.randn(rows, n, COMPONENTS, device=device).requires_grad_()
        chosen = choose(shape_of(chain.cores, weigh(chain.cores, evidence), boundary))
        for plan in PLANS:
            if plan.kind == "vectors" and boundary == "ring":
                continue
            run = partial(log_z, chain, evidence, plan)
            cases: dict[str, Callable[[], object]] = {
                "log Z": without_gradients(run),
                "log Z + backward": partial(backward, chain, run),
            }
            row = {"boundary": boundary, "n": n, "rank": rank, "batch": rows, "plan": f"{plan.kind} {plan.side}"}
            times = interleaved(cases, device, seconds)
            found.append(row | {f"{name}, ms": time for name, time in times.items()} | {"chosen": plan == chosen})
    return found


def log_z(chain: TensorChain, evidence: torch.Tensor, plan: Plan) -> torch.Tensor:
    """By a plan, from the parameters."""
    cores = chain.cores
    z, log_scale = contract(cores, weigh(cores, evidence), chain.boundary, plan)
    return z.log() + log_scale
