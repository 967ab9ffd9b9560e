"""What the width of a ring's closing bond costs in likelihood: priors fitted to the latents of a trained model."""

import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from tn_core.components import build
from tn_core.plugins import default_host
from tn_core.protocols import to_float
from tn_core.storage import load_model
from tn_priors import TRIP


def latents(run: Path, data: str, data_root: str) -> tuple[Tensor, Tensor]:
    """Posterior samples of the training and of the test split."""
    host = default_host()
    source = build({"name": data}, "datasets", host, root=data_root)
    model, _ = load_model(run, host)
    torch.manual_seed(0)
    found = []
    with torch.no_grad():
        for part in ("train", "test"):
            x = source.split(part).x
            found.append(torch.cat([model.posterior(to_float(piece)).sample() for piece in x.split(1_000)]))
    return found[0], found[1]


def held_out(
    train: Tensor, test: Tensor, rank: int, closing_ranks: list[int], steps: int, seeds: int
) -> list[dict[str, Any]]:
    """Mean log likelihood of held-out latents in nats, over seeds, for a train and for rings by their closing rank."""
    chains: dict[str, dict[str, Any]] = {"train": {"boundary": "train"}}
    chains |= {f"ring, closing rank {r}": {"closing_rank": r} for r in closing_ranks if r < rank}
    chains["ring"] = {}
    found = []
    for name, arguments in chains.items():
        likelihoods, seconds = [], []
        for seed in range(seeds):
            torch.manual_seed(seed)
            prior = TRIP(train.shape[1], 10, rank, **arguments)
            begin = time.perf_counter()
            prior.fit(train, steps=steps)
            seconds.append(time.perf_counter() - begin)
            with torch.no_grad():
                p = prior()
                likelihoods.append(torch.cat([p.log_prob(piece) for piece in test.split(1_000)]).mean().item())
        row = {"prior": name, "rank": rank, "latents": train.shape[1], "held-out nats": mean(likelihoods)}
        row["deviation over seeds"] = stdev(likelihoods) if seeds > 1 else 0.0
        found.append(row | {"seconds a fit": mean(seconds)})
    return found
