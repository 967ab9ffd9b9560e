"""Fitting priors to latents."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tn_priors.labels import Categorical

if TYPE_CHECKING:
    from tn_priors.trip import TRIP

__all__ = ["fit_by_gradient", "mixture_of_products", "mixtures_1d"]


def mixtures_1d(z: Tensor, components: int, iterations: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """EM for one mixture of Gaussians a column, all columns at once. Starts at quantiles.

    Returns:
        means, deviations, weights, each (features, components).
    """
    z = z.detach()
    q = (torch.arange(components, device=z.device) + 0.5) / components
    means = torch.quantile(z[:10_000], q.to(z), dim=0).T.contiguous()  # shape: (features, components)
    spread = z.std(0).clamp_min(1e-3)
    means = means + 1e-3 * spread.unsqueeze(1) * torch.linspace(-1, 1, components).to(z)
    deviations = (spread / components**0.5).unsqueeze(1).repeat(1, components)
    weights = torch.full_like(means, 1 / components)
    floor = 0.05 * spread.unsqueeze(1)
    for _ in range(iterations):
        log_p = -0.5 * ((z.unsqueeze(-1) - means) / deviations) ** 2 - deviations.log() + weights.log()
        r = log_p.softmax(-1)  # shape: (samples, features, components)
        mass = r.sum(0) + 1e-6
        means = (r * z.unsqueeze(-1)).sum(0) / mass
        deviations = ((r * (z.unsqueeze(-1) - means) ** 2).sum(0) / mass).sqrt().clamp_min(floor)
        weights = mass / mass.sum(-1, keepdim=True)
    return means, deviations, weights


@torch.no_grad()
def mixture_of_products(prior: "TRIP", z: Tensor, y: Tensor | None, iterations: int = 30) -> None:
    """EM for a mixture of ``rank`` products, written into means, deviations and cores."""
    from sklearn.cluster import KMeans

    m = prior.chain.rank
    means, deviations, _ = mixtures_1d(z[:10_000], prior.components)
    prior.means.copy_(means)
    prior.log_deviations.copy_(deviations.log())
    dist = prior()
    evidence = {k: e for k, e in enumerate(
        (-0.5 * ((z.unsqueeze(-1) - means) / deviations) ** 2 - deviations.log()).unbind(1)
    )}
    position = prior._position
    if y is not None:
        for p, e in prior._label_evidence(y).items():
            evidence[prior.order[p].item()] = e
    for k in evidence:
        e = evidence[k]
        evidence[k] = (e - e.amax(-1, keepdim=True)).exp()
    n = len(prior.order)
    sizes = [prior.chain.sizes[position[v]] for v in range(n)]
    km = KMeans(m, n_init=1, random_state=0).fit(z[:10_000].cpu().numpy())
    c = torch.tensor(km.predict(z.cpu().numpy()), device=z.device).long()
    r = torch.nn.functional.one_hot(c, m).to(z) * 0.9 + 0.1 / m
    tables = [torch.full((m, s), 1 / s, device=z.device, dtype=z.dtype) for s in sizes]
    weights = torch.full((m,), 1 / m, device=z.device, dtype=z.dtype)
    for it in range(iterations):
        log_r = weights.log().expand(len(z), -1).clone()
        for v, e in evidence.items():
            p = e @ tables[v].T  # samples, m
            rr = r / p.clamp_min(1e-30)
            tables[v] = tables[v] * (rr.T @ e) + 1e-4
            tables[v] = tables[v] / tables[v].sum(1, keepdim=True)
            log_r += (e @ tables[v].T).clamp_min(1e-30).log()
        r = log_r.softmax(-1)
        weights = r.mean(0).clamp_min(1e-6)
    prior.set_mixture(weights, tables)


def fit_by_gradient(prior: nn.Module, z: Tensor, y: Tensor | None, *, steps: int, learning_rate: float, batch: int = 512) -> None:
    opt = torch.optim.Adam(prior.parameters(), lr=learning_rate)
    for i in range(steps):
        for gr in opt.param_groups:
            gr["lr"] = learning_rate * (1 - i / steps)
        idx = torch.randint(len(z), (batch,))
        loss = -prior.log_prob_joint(z[idx], None if y is None else y[idx]).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
