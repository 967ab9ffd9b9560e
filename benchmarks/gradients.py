"""How noisy the gradients of a GAN's prior are, by each estimator."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from tn_core.plugins import PluginHost
from tn_core.storage import load_model
from tn_gan import GAN
from tn_gan.gan import Estimator
from tn_priors import TRIP

COMPONENTS = 10


class Smooth(nn.Module):
    """Latents that a fixed random network of one layer of tanh looks at."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.decoder = nn.Identity()
        self.encoder = nn.Sequential(nn.Linear(n, 128), nn.Tanh(), nn.Linear(128, 1))


def of_a_smooth_function(n: int, rank: int, batches: int, seeds: int) -> list[dict[str, Any]]:
    """Of a prior at either of its starts, with the paper's means and deviations."""
    starts: tuple[Literal["random", "mixture"], ...] = ("random", "mixture")
    rows = []
    for start in starts:
        for seed in range(seeds):
            torch.manual_seed(seed)
            prior = TRIP(n, COMPONENTS, rank, start=start, mean_range=1.0, deviation=1 / COMPONENTS)
            model = GAN(Smooth(n), prior, "wgan")
            rows.append({"critic": "smooth", "start": start, "seed": seed} | variances(model, batches))
    return rows


def of_a_run(folder: Path, batches: int) -> dict[str, Any]:
    """Of a trained GAN, with its own generator and critic."""
    model, _ = load_model(folder, PluginHost())
    if not isinstance(model, GAN):
        raise SystemExit(f"{folder} holds a {type(model).__name__}, not a GAN")
    torch.manual_seed(0)
    return {"critic": folder.name} | variances(model, batches)


def variances(model: GAN, batches: int) -> dict[str, Any]:
    """The variances of gradients from 128 latents, each summed over the prior's parameters, and their ratios."""
    found = {str(name): value for name, value in model.gradient_variances(batches).items()}
    if len(found) < len(get_args(Estimator)):
        learners = ", ".join(found) or "none"
        raise SystemExit(f"{type(model.prior).__name__} is learned by these estimators alone: {learners}")
    return found | {f"times {name}": found["score-function"] / found[name] for name in ("pathwise", "hybrid")}
