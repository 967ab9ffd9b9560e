"""What products of rounded factors do to a log density."""

from typing import Any

import torch
from torch import Tensor

from tn_priors import TRIP

FORMATS = {"TF32": 11, "bfloat16": 8}  # significant bits


def rounded(x: Tensor, bits: int) -> Tensor:
    """Numbers rounded to so many significant bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent)


def log_prob(prior: TRIP, z: Tensor, bits: int = 53) -> Tensor:
    """Algorithm 1 of the TRIP paper in float64 with the factors of every product rounded, (rows,)."""
    _, cores = prior.chain.cores.plain.groups[0]
    distances = (z.double().unsqueeze(-1) - prior.means.double()) / prior.deviations.double()
    log_densities = -0.5 * distances.square() - prior.deviations.double().log()
    peak = log_densities.amax(-1, keepdim=True)
    # one more row, of which nothing is known, for the normaliser
    weights = torch.cat([(log_densities - peak).exp(), torch.ones_like(log_densities[:1])])
    state = torch.eye(prior.chain.rank, dtype=torch.float64).expand(len(weights), -1, -1)
    log_z = torch.cat([peak.sum((1, 2)), peak.new_zeros(1)])
    for variable, core in zip(prior.order.tolist(), cores.double(), strict=True):
        matrices = torch.einsum("rs,sab->rab", rounded(weights[:, variable], bits), rounded(core, bits))
        state = rounded(state, bits) @ rounded(matrices, bits)
        largest = state.amax((1, 2), keepdim=True)
        state, log_z = state / largest, log_z + largest.log().flatten()
    log_z = log_z + state.diagonal(dim1=1, dim2=2).sum(-1).log()
    return log_z[:-1] - log_z[-1]


@torch.no_grad()
def errors(rank: int, n: int = 100, rows: int = 64) -> list[dict[str, Any]]:
    """Errors of log p in nats: of float32 as the library computes, of formats with fewer bits as emulated."""
    torch.manual_seed(0)
    prior = TRIP(n, 10, rank)
    z = prior().sample((rows,))
    exact = log_prob(prior, z)
    constant = prior().log_prob(z).double() - exact
    found = {"float32": constant + 0.5 * n * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))}
    found |= {name: log_prob(prior, z, bits) - exact for name, bits in FORMATS.items()}
    return [
        {
            "rank": rank,
            "format": name,
            "root mean square": error.square().mean().sqrt().item(),
            "largest": error.abs().max().item(),
        }
        for name, error in found.items()
    ]
