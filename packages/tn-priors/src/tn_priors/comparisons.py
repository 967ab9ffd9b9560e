"""The statistical comparisons of the conformance suite: averages that may differ by so many standard errors.

Five standard errors are a false alarm in less than one of 10^5 comparisons even at the 39 degrees of freedom of the
smallest comparison (Student's t).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, StudentT

__all__ = ["close_on_average", "estimators_agree", "integrates_to_one", "samples_follow_density", "trainable"]

ERRORS = 5.0
"""How many standard errors two averages may differ by."""


def trainable(prior: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that require gradients, with their names."""
    return [(name, parameter) for name, parameter in prior.named_parameters() if parameter.requires_grad]


def close_on_average(values: Tensor, expected: Tensor) -> None:
    """Asserts that the mean over the first axis is within ``ERRORS`` standard errors of what is expected."""
    error = values.std(0) / len(values) ** 0.5
    gap = (values.mean(0) - expected).abs()
    assert bool((gap <= ERRORS * error + 1e-9).all()), f"off by {gap.tolist()}, standard errors {error.tolist()}"


def integrates_to_one(p: Distribution, samples: int) -> None:
    """Asserts that a density has mass one, by importance sampling with heavy tails."""
    _, log_weights = _importance(p, samples)
    weights = log_weights.exp()
    assert float(weights.std()) < 0.02 * samples**0.5, "too spread out to be integrated: make a smaller prior"
    close_on_average(weights, torch.ones((), dtype=weights.dtype))


def samples_follow_density(p: Distribution, samples: int) -> None:
    """Asserts that samples and density have one characteristic function, at eight random frequencies."""
    drawn = p.sample((samples,))
    z, log_weights = _importance(p, samples)
    frequencies = torch.randn(p.event_shape[0], 8).to(z) / drawn.std(0).unsqueeze(1)
    shift = torch.pi / 4  # sine and cosine at once
    found = torch.cos(drawn @ frequencies + shift)
    expected = torch.cos(z @ frequencies + shift) * log_weights.exp().unsqueeze(1)
    error = ((found.var(0) + expected.var(0)) / samples).sqrt()
    gap = (found.mean(0) - expected.mean(0)).abs()
    assert bool((gap <= ERRORS * error).all()), f"off by {gap.tolist()}, standard errors {error.tolist()}"


def estimators_agree(prior: nn.Module, p: Distribution, samples: int, batches: int = 40) -> None:
    """Asserts that the gradients of E f(z) by paths and by scores agree, along two random directions a parameter."""
    parameters = [parameter for _, parameter in trainable(prior)]
    directions = [torch.randn(2, *parameter.shape).to(parameter) for parameter in parameters]
    pilot = p.sample((2000,))
    frequency = torch.linspace(0.5, 1.0, p.event_shape[0]).to(pilot) / pilot.std(0)

    def smooth(z: Tensor) -> Tensor:
        return torch.cos((z * frequency).sum(-1) + 0.5) + torch.tanh(z * frequency).sum(-1)

    def along(loss: Tensor) -> Tensor:
        slopes = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                torch.zeros(2).to(d) if s is None else (s * d).flatten(1).sum(1)
                for s, d in zip(slopes, directions, strict=True)
            ]
        )

    baseline = smooth(pilot).mean(0)
    count = samples // batches
    paths, scores = [], []
    for _ in range(batches):
        z = p.rsample((count,))
        paths.append(along(smooth(z).mean(0).sum()))
        z = p.sample((count,))
        scores.append(along(((smooth(z) - baseline) * p.log_prob(z)).mean(0).sum()))
    path, score = torch.stack(paths), torch.stack(scores)
    error = ((path.var(0) + score.var(0)) / batches).sqrt()
    gap = (path.mean(0) - score.mean(0)).abs()
    assert bool((gap <= ERRORS * error + 1e-9).all()), f"off by {gap.tolist()}, standard errors {error.tolist()}"


def _importance(p: Distribution, samples: int) -> tuple[Tensor, Tensor]:
    """Draws from Student's t, placed by samples of p, and the log importance weights of the draws."""
    pilot = p.sample((2000,))
    proposal: Any = StudentT(torch.full_like(pilot[0], 4.0), pilot.mean(0), pilot.std(0))
    z = proposal.sample((samples,))
    with torch.no_grad():
        return z, p.log_prob(z) - proposal.log_prob(z).sum(-1)
