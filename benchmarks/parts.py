"""A training step of CompVAE beside the plain formulation, which goes through the parts one by one."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import interleaved
from tn_compvae import CompVAE, PartsMLP, Sines

BATCH, CATEGORIES, LENGTH = 256, 10, 200  # CompVAE, section 4


class LoopedMLP(PartsMLP):
    """The same network, part by part: each place of a padded batch by itself, and each sum term by term."""

    def parts(self, x: Tensor, z: Tensor, part: Tensor, present: Tensor, noise: Tensor) -> Tensor:
        """See :meth:`tn_compvae.networks.PartsNetwork.parts`."""
        places = range(part.shape[1])
        same = torch.cat([self.context(x), z], -1)
        states = [torch.cat([same, self.embed(part[:, i]) + noise[:, i]], -1) for i in places]
        for message, update, norm in zip(self.graph.messages, self.graph.updates, self.graph.norms, strict=True):
            sent = [message(states[i]) * present[:, i, None] for i in places]
            new = []
            for i in places:
                others = torch.zeros_like(sent[i])
                for j in places:
                    if j != i:
                        others = others + sent[j]
                new.append(functional.elu(norm(update(torch.cat([states[i], others], -1)))))
            states = new
        return torch.stack([self.graph.out(state) for state in states], 1)


def step_by_parts(device: torch.device, parts: list[int], seconds: float = 10.0) -> list[dict[str, Any]]:
    """Milliseconds of a training step with sets of 1 to K parts, for each K."""
    warnings.filterwarnings("ignore", ".*trainer.*")
    rows = []
    for most in parts:
        data = Sines(most, CATEGORIES, LENGTH)
        batch = data.draw(BATCH, 0, torch.Generator(device).manual_seed(0))

        def stepper(
            kind: type[PartsMLP], most: int = most, batch: tuple[Tensor, Tensor] = batch
        ) -> Callable[[], object]:
            torch.manual_seed(0)
            module = CompVAE(kind((LENGTH,), 16, [CATEGORIES] * most)).to(device)
            optimizer = module.configure_optimizers()["optimizer"]

            def step() -> None:
                optimizer.zero_grad()
                module.training_step(batch, 0).backward()
                optimizer.step()

            return step

        times = interleaved({"all parts at once": stepper(PartsMLP), "a loop": stepper(LoopedMLP)}, device, seconds)
        times |= interleaved({"drawing": partial(data.draw, BATCH, 0, torch.Generator(device))}, device, 1.0)
        rows.append({"parts": most, **{f"{name}, ms": round(value, 2) for name, value in times.items()}})
    return rows
