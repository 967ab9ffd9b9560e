"""The yardstick: the sequential algorithms of the TRIP paper, written plainly, a step a variable.

Algorithm 1 for the density, equation 15 for samples, cores made non-negative by their absolute value and the running
products divided by their norm at every step (appendix D). Not part of the library: it is what the library is measured
against.
"""

import math

import torch
from torch import Tensor, nn

from tn_priors import TRIP


class Yardstick(nn.Module):
    """A tensor ring prior with the parameters of a given one.

    Arguments:
        prior: a ring, whose cores, means, deviations and order of variables are copied.
    """

    def __init__(self, prior: TRIP) -> None:
        super().__init__()
        cores: dict[int, Tensor] = {
            k: stack[i].detach().clone() for ks, stack in prior.chain.cores.plain.groups for i, k in enumerate(ks)
        }
        self.cores = nn.ParameterList(cores[k] for k in range(len(cores)))  # each (N, m, m)
        self.means = nn.Parameter(prior.means.detach().clone())
        self.deviations = nn.Parameter(prior.deviations.detach().clone())
        self.order: list[int] = prior.order.tolist()
        self.features, self.sizes = prior.features, prior.sizes
        self.rank = prior.chain.rank

    def _density(self, z: Tensor, k: int) -> Tensor:
        """N(z_k | component), (rows, N)."""
        x = (z.unsqueeze(1) - self.means[k]) / self.deviations[k]
        return torch.exp(-0.5 * x**2) / (self.deviations[k] * math.sqrt(2 * math.pi))

    def _identity(self) -> Tensor:
        return torch.eye(self.rank, dtype=self.means.dtype, device=self.means.device)

    def _weights(self, variable: int, z: Tensor, y: Tensor | None) -> Tensor | None:
        """The weights (rows, N) of what is observed of a variable, None if it is marginalised out."""
        if variable < self.features:
            return self._density(z[:, variable], variable)
        return None if y is None else self._known(y[:, variable - self.features], self.sizes[variable])

    def _known(self, values: Tensor, size: int) -> Tensor:
        """One-hot weights (rows, size), ones where a value is -1."""
        one_hot = values.unsqueeze(1) == torch.arange(size, device=values.device)
        return (one_hot | (values == -1).unsqueeze(1)).to(self.means.dtype)

    def log_prob(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Algorithm 1: log p(z, y), (rows,)."""
        norm = self._identity()
        buff = norm.expand(len(z), -1, -1)
        log_buff, log_norm = z.new_zeros(len(z)), z.new_zeros(())
        for variable, core in zip(self.order, self.cores, strict=True):
            core = core.abs()
            weights = self._weights(variable, z, y)
            buff = buff @ (core.sum(0) if weights is None else torch.einsum("bs,sij->bij", weights, core))
            norm = norm @ core.sum(0)
            size = buff.norm(dim=(1, 2), keepdim=True)
            buff, log_buff = buff / size, log_buff + size.log().flatten()
            size = norm.norm()
            norm, log_norm = norm / size, log_norm + size.log()
        trace = buff.diagonal(dim1=1, dim2=2).sum(-1)
        return trace.log() + log_buff - norm.trace().log() - log_norm

    def sample(self, rows: int, y: Tensor | None = None, pathwise: bool = False) -> Tensor:
        """Equation 15: z_k from its conditional given those before it, (rows, features)."""
        cores = [core.abs() for core in self.cores]
        evidence = [
            None if y is None or v < self.features else self._known(y[:, v - self.features], self.sizes[v])
            for v in self.order
        ]
        # what comes after a variable, everything in it summed out but the labels known
        after = [self._identity().expand(1 if y is None else rows, -1, -1)]
        for core, e in zip(reversed(cores[1:]), reversed(evidence[1:]), strict=True):
            matrix = core.sum(0) if e is None else torch.einsum("bs,sij->bij", e, core)
            product = matrix @ after[-1]
            after.append(product / product.norm(dim=(1, 2), keepdim=True))
        after.reverse()
        buff = self._identity().expand(rows, -1, -1)
        drawn: dict[int, Tensor] = {}
        for k, (variable, core) in enumerate(zip(self.order, cores, strict=True)):
            if variable >= self.features:
                e = evidence[k]
                buff = buff @ (core.sum(0) if e is None else torch.einsum("bs,sij->bij", e, core))
            else:
                turned = after[k] @ buff
                p = torch.einsum("bji,sij->bs", turned, core)
                p = p / p.sum(1, keepdim=True)
                s = torch.multinomial(p.detach(), 1).squeeze(1)
                means, deviations = self.means[variable], self.deviations[variable]
                value = (means[s] + deviations[s] * torch.randn_like(means[s])).detach()
                if pathwise:
                    x = (value.unsqueeze(1) - means) / deviations
                    cdf = (p * torch.special.ndtr(x)).sum(1)
                    density = (p * self._density(value, variable)).sum(1).detach()
                    value = value - (cdf - cdf.detach()) / density
                drawn[variable] = value
                buff = buff @ torch.einsum("bs,sij->bij", self._density(value, variable), core)
            buff = buff / buff.norm(dim=(1, 2), keepdim=True)
        return torch.stack([drawn[k] for k in range(self.features)], 1)

    def label_posteriors(self, z: Tensor) -> list[Tensor]:
        """For each label its probabilities: algorithm 1 once for every value."""
        found = []
        for j, size in enumerate(self.sizes[self.features :]):
            columns = []
            for value in range(size):
                y = torch.full((len(z), len(self.sizes) - self.features), -1, device=z.device)
                y[:, j] = value
                columns.append(self.log_prob(z, y))
            found.append(torch.stack(columns, 1).softmax(1))
        return found
