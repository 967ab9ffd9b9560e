r"""Fitting a chain prior to latents: one-dimensional mixtures, a mixture of products, then the exact likelihood.

A chain whose cores are diagonal, G_k[s] = diag(p_k(s | c)), is a mixture over c of products of independent variables.
Such a mixture has a closed-form expectation maximisation and makes a good start, with several labels one for the
stretch of the chain round each; gradient steps on the exact log likelihood then let the bond change along the chain.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tn_priors.chain_mixture import normal_log_density

if TYPE_CHECKING:
    from tn_priors.trip import TRIP

__all__ = [
    "check_fit",
    "check_latents",
    "fit_by_gradient",
    "fit_mixture_of_products",
    "informative",
    "mixture_of_products",
    "mixtures_1d",
    "mutual_information",
    "seriate",
]

# expectation maximisation sees at most so many samples: its statistics are averages, and it holds them all at once
MOST_SAMPLES = 20_000
MOST_SAMPLES_1D = 5_000


def check_latents(z: Tensor, features: int, fewest: int = 2) -> None:
    """Raises a ValueError unless z is finite, (samples, features), with at least so many samples."""
    if z.ndim != 2 or z.shape[1] != features or len(z) < fewest:
        raise ValueError(
            f"z must have shape (samples, {features}) with at least {fewest} samples, got {tuple(z.shape)}"
        )
    if not bool(torch.isfinite(z).all()):
        raise ValueError("z must be finite, got NaN or infinity")


def check_fit(z: Tensor, features: int, y: Tensor | None, steps: int, learning_rate: float) -> None:
    """Raises a ValueError unless z is as for ``check_latents``, y is as long, and the numbers are in their range."""
    check_latents(z, features)
    if steps < 0 or not learning_rate > 0:
        raise ValueError(f"steps must not be negative and learning_rate positive, got {steps}, {learning_rate}")
    if y is not None and len(y) != len(z):
        raise ValueError(f"as many labels as latents are needed, got {len(y)} and {len(z)}")


@torch.no_grad()
def mixtures_1d(z: Tensor, components: int, iterations: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """Fits a mixture of Gaussians to every column by expectation maximisation, all columns at once.

    The means start at quantiles; a deviation never falls below a twentieth of its column's.

    Arguments:
        z: (samples, features).
        components: Gaussians a column.
        iterations: of expectation maximisation.

    Returns:
        Means, deviations and weights, each (features, components).
    """
    z = z[:MOST_SAMPLES_1D]
    spread = z.std(0).clamp_min(1e-3).unsqueeze(1)  # shape: (features, 1)
    levels = (torch.arange(components).to(z) + 0.5) / components
    # equal quantiles (a collapsed or discrete column) are told apart by a hair
    hair = 1e-3 * spread * torch.linspace(-1, 1, components).to(z)
    means = torch.quantile(z, levels, dim=0).T + hair
    deviations = spread / components**0.5 * torch.ones_like(means)
    weights = torch.full_like(means, 1 / components)
    for _ in range(iterations):
        log_p = normal_log_density(z.unsqueeze(-1), means, deviations) + weights.log()
        share = log_p.softmax(-1)  # shape: (samples, features, components)
        mass = share.sum(0) + 1e-6
        means = (share * z.unsqueeze(-1)).sum(0) / mass
        variance = (share * (z.unsqueeze(-1) - means) ** 2).sum(0) / mass
        deviations = torch.maximum(variance.sqrt(), 0.05 * spread)
        weights = mass / mass.sum(-1, keepdim=True)
    return means, deviations, weights


def informative(weights: Tensor) -> Tensor:
    """Which samples, bool (samples,), weigh the values of a variable, (samples, N), differently."""
    return (weights != weights[:, :1]).any(1)


@torch.no_grad()
def mixture_of_products(
    weights: Sequence[Tensor], start: Tensor, products: int, iterations: int = 30
) -> tuple[Tensor, list[Tensor]]:
    """Fits a mixture of products of independent discrete variables by expectation maximisation.

    Arguments:
        weights: for each variable (samples, N_k), the likelihood of its values a sample; ones where unknown.
        start: the product every sample starts in, long (samples,).
        products: how many.
        iterations: of expectation maximisation.

    Returns:
        The weights of the products (products,), and for each variable the probabilities of its values in each
        (products, N_k).
    """
    share = torch.nn.functional.one_hot(start, products).to(weights[0]) * 0.9 + 0.1 / products
    mixing = share.mean(0)
    tables = [w.new_full((products, w.shape[1]), 1 / w.shape[1]) for w in weights]
    tiny = torch.finfo(mixing.dtype).tiny
    # samples that say nothing of a variable are left out of its counts: theirs are the table itself, and would hold it
    informed = [slice(None) if rows.all() else rows for rows in map(informative, weights)]
    told = [w[rows] for w, rows in zip(weights, informed, strict=True)]
    for _ in range(iterations):
        log_share = mixing.log().expand(len(share), -1)
        for k, w in enumerate(weights):
            # expected counts of the values in each product; a pinch of each, so that none is ruled out for ever
            counts = tables[k] * ((share[informed[k]] / (told[k] @ tables[k].T).clamp_min(tiny)).T @ told[k]) + 1e-4
            tables[k] = counts / counts.sum(1, keepdim=True)
            log_share = log_share + (w @ tables[k].T).clamp_min(tiny).log()
        share = log_share.softmax(-1)
        mixing = share.mean(0).clamp_min(1e-6)
    return mixing / mixing.sum(), tables


@torch.no_grad()
def mutual_information(shares: Sequence[Tensor]) -> Tensor:
    """Of all pairs of discrete variables, (variables, variables), in nats; zero on the diagonal.

    Less what as many samples of independent variables would show, to first order (Miller, 1955): where samples are
    fewer than pairs of values, some of it stays. Not below zero.

    Arguments:
        shares: for each variable (samples, N_k), the probabilities of its values in each sample; all zero where nothing
            is known. A pair counts the samples that know of both.
    """
    sizes = [a.shape[1] for a in shares]
    together = torch.cat(list(shares), 1)
    tables = [row.split(sizes, 1) for row in (together.T @ together).split(sizes)]  # one product for all pairs
    found = together.new_zeros(len(sizes), len(sizes))
    for i, j in itertools.combinations(range(len(sizes)), 2):
        counts = tables[i][j]
        total = counts.sum().clamp_min(1)
        joint = counts / total
        independent = joint.sum(1, keepdim=True) * joint.sum(0)
        information = torch.special.xlogy(joint, joint / independent.clamp_min(1e-30)).sum()
        by_chance = (sizes[i] - 1) * (sizes[j] - 1) / (2 * total)
        found[i, j] = found[j, i] = (information - by_chance).clamp_min(0)
    return found


def seriate(information: Tensor) -> Tensor:
    """An order that puts variables that tell of each other side by side, long (variables,).

    A bond has to carry what the variables on its left and on its right tell of each other. The order is that of the
    leaves of a tree of average-linkage clusters, its branches turned so that neighbours are as close as they can be
    (Bar-Joseph et al., Fast optimal leaf ordering for hierarchical clustering, 2001). For the same reason chains of
    quantum states are ordered by mutual information (Barcza et al., 2011, https://arxiv.org/abs/1008.4607).

    Arguments:
        information: symmetric (variables, variables), not negative, zero on the diagonal.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(information) < 3:
        return torch.arange(len(information), device=information.device)
    far = (information.max() - information).fill_diagonal_(0)
    tree = linkage(squareform(far.double().cpu().numpy(), checks=False), "average", optimal_ordering=True)
    return torch.from_numpy(leaves_list(tree)).to(information.device, torch.long)


@torch.no_grad()
def fit_mixture_of_products(prior: "TRIP", z: Tensor, y: Tensor | None) -> None:
    """Orders the variables, fits a mixture of ``rank`` products to each block of them and writes it into the prior.

    Starts at a k-means. A chain with a narrower closing bond keeps its order.
    """
    from sklearn.cluster import KMeans

    evidence = prior.label_evidence(y)
    kept = torch.randperm(len(z), device=z.device)
    if evidence:  # those with labels are few where it matters
        labelled = torch.stack([informative(w) for w in evidence.values()]).any(0)
        kept = kept[torch.argsort(labelled[kept], descending=True, stable=True)]
    kept = kept[:MOST_SAMPLES]
    z = z[kept]
    means, deviations, mixing_1d = mixtures_1d(z, prior.components)
    prior.means.copy_(means)
    prior.log_deviations.copy_(deviations.log())
    log_density = normal_log_density(z.unsqueeze(-1), means, deviations)
    log_weights = list(log_density.unbind(1))
    for variable, size in enumerate(prior.sizes[prior.features :], prior.features):
        log_weights.append(evidence[variable][kept] if variable in evidence else z.new_zeros(len(z), size))
    weights = [torch.exp(w - w.amax(-1, keepdim=True)) for w in log_weights]
    rank = prior.chain.rank
    if prior.chain.bonds[0] == rank:
        of_latents = (log_density + mixing_1d.log()).softmax(-1).unbind(1)
        of_labels = [w / w.sum(1, keepdim=True) * informative(w).unsqueeze(1) for w in weights[prior.features :]]
        prior.set_order(seriate(mutual_information([*of_latents, *of_labels])))
    mixing: list[Tensor] = []
    tables: dict[int, Tensor] = {}
    for block in prior.blocks:
        start = torch.zeros(len(z), dtype=torch.long, device=z.device)
        if latents := [v for v in block if v < prior.features]:
            clusters = KMeans(min(rank, len(z)), n_init=1, random_state=0).fit_predict(z[:, latents].cpu().numpy())
            start.copy_(torch.from_numpy(clusters))
        shares, found = mixture_of_products([weights[v] for v in block], start, rank)
        mixing.append(shares)
        tables |= dict(zip(block, found, strict=True))
    prior.set_mixture(torch.stack(mixing), [tables[v] for v in range(len(prior.sizes))])


def fit_by_gradient(
    objective: Callable[[Tensor, Tensor | None], Tensor],
    parameters: Sequence[nn.Parameter],
    z: Tensor,
    y: Tensor | None,
    steps: int,
    learning_rate: float,
    batch_size: int = 512,
) -> None:
    """Gradient steps (Adam, the learning rate falling linearly to zero), such as those on the exact log likelihood.

    Arguments:
        objective: of a batch (z, y); its mean is to grow, such as that of log p(z, y_ob).
        parameters: what is learned, also if it is fixed otherwise.
        z: latents (samples, features).
        y: labels (samples, labels), or None.
        steps: how many.
        learning_rate: the first step's.
        batch_size: samples a step.
    """
    if not parameters:
        return
    fixed = [p for p in parameters if not p.requires_grad]
    optimiser = torch.optim.Adam([p.requires_grad_() for p in parameters], lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=max(steps, 1))
    with torch.enable_grad():
        for _ in range(steps):
            index = torch.randint(len(z), (min(batch_size, len(z)),), device=z.device)
            loss = -objective(z[index], None if y is None else y[index]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    for p in fixed:
        p.requires_grad_(False)
    optimiser.zero_grad()
