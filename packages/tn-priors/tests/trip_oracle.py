"""A dense oracle: every state of the chain and every label, one by one, in float64."""

import torch
from torch.distributions import Normal


class Dense:
    """The joint table of a small TRIP, from its cores alone.

    Attributes:
        table: probabilities of all components of the latents and all values of the labels, in this order of axes.
    """

    def __init__(self, prior):
        cores = {}
        for positions, stack in prior.chain.cores.plain.groups:
            cores.update(zip(positions, stack.detach().double(), strict=True))
        n = len(cores)
        total = cores[0]  # shape: (s_1, a, b); then one more axis of states a step
        for k in range(1, n):
            total = torch.einsum("...ab,sbc->...sac", total, cores[k])
        weight = total.diagonal(dim1=-2, dim2=-1).sum(-1) if prior.boundary == "ring" else total.sum((-2, -1))
        weight = weight.permute(torch.argsort(prior.order).tolist())
        self.table = weight / weight.sum()
        self.d = prior.features
        self.means, self.deviations = prior.means.detach().double(), prior.deviations.detach().double()

    def spread(self, weights, axis):
        """Weights (N,) of the values of a variable, shaped to multiply the table."""
        shape = [1] * self.table.ndim
        shape[axis] = -1
        return weights.double().reshape(shape)

    def weigh(self, z=None, labels=()):
        """The table times the density of latents (d,) and weights (N,) of labels; NaN and None: unknown."""
        found = self.table
        for k in range(self.d):
            if z is not None and not z[k].isnan():
                found = found * self.spread(self.density(z[k], k), k)
        for j, weights in enumerate(labels):
            if weights is not None:
                found = found * self.spread(weights, self.d + j)
        return found

    def density(self, value, k):
        """N(value; mu_ks, sigma_ks^2) for every s."""
        return Normal(self.means[k], self.deviations[k]).log_prob(value).exp()

    def posterior(self, weighed, axis):
        """p(s_axis) of a weighed table."""
        others = [a for a in range(weighed.ndim) if a != axis]
        marginal = weighed.sum(others) if others else weighed
        return marginal / marginal.sum()

    def moments(self, weighed):
        """Mean and variance of every latent under a weighed table."""
        p = torch.stack([self.posterior(weighed, k) for k in range(self.d)])
        mean = (p * self.means).sum(-1)
        return mean, (p * (self.deviations**2 + self.means**2)).sum(-1) - mean**2

    def covariance(self, weighed):
        """Of the latents under a weighed table."""
        mean, variance = self.moments(weighed)
        found = torch.diag(variance)
        for j in range(self.d):
            for k in range(self.d):
                if j != k:
                    others = [a for a in range(weighed.ndim) if a not in (j, k)]
                    together = weighed.sum(others) if others else weighed
                    together = together if j < k else together.T
                    found[j, k] = self.means[j] @ (together / together.sum()) @ self.means[k] - mean[j] * mean[k]
        return found

    def marginal_cdf(self, weighed, z):
        """P(z_k <= value) of every latent under a weighed table."""
        return torch.stack(
            [self.posterior(weighed, k) @ Normal(self.means[k], self.deviations[k]).cdf(z[k]) for k in range(self.d)]
        )

    def projection_cdf(self, weighed, direction, points):
        """P(z . direction <= point) for every point: a mixture of one Gaussian a state of the latents."""
        p = weighed.sum(list(range(self.d, weighed.ndim))) if weighed.ndim > self.d else weighed
        mean = sum(self.spread_latent(direction[k] * self.means[k], k) for k in range(self.d))
        variance = sum(self.spread_latent((direction[k] * self.deviations[k]) ** 2, k) for k in range(self.d))
        p, mean, deviation = (p / p.sum()).flatten(), mean.flatten(), variance.sqrt().flatten()
        return (p * Normal(mean, deviation).cdf(points.unsqueeze(-1))).sum(-1)

    def spread_latent(self, values, k):
        """Values (N,) of latent k, shaped to add up over the latents."""
        shape = [1] * self.d
        shape[k] = -1
        return values.reshape(shape)


def shake(prior):
    """Moves every parameter at random, so that no test passes by the symmetry of the start; returns it in float64."""
    prior = prior.double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return prior
