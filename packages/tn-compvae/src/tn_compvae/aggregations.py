"""What makes one vector of the latents of a whole's parts, whatever their order and number.

An aggregation is a module: parts (*batch, places, features) and present, bool (*batch, places), to (*batch, features).
What it takes from places without a part must not matter.
"""

import torch
from torch import Tensor, nn

__all__ = ["LogSumExp", "Mean", "Sum"]


class Sum(nn.Module):
    """The sum of the parts; the correlated posterior is made for it (CompVAE, section 3.1)."""

    def forward(self, parts: Tensor, present: Tensor) -> Tensor:
        r"""Returns (\*batch, features)."""
        return parts.where(present.unsqueeze(-1), 0).sum(-2)


class Mean(nn.Module):
    """The mean of the parts, 0 without any: it does not tell their number."""

    def forward(self, parts: Tensor, present: Tensor) -> Tensor:
        r"""Returns (\*batch, features)."""
        return parts.where(present.unsqueeze(-1), 0).sum(-2) / present.sum(-1, keepdim=True).clamp_min(1)


class LogSumExp(nn.Module):
    """log(1 + sum_i exp w_i): nearly the largest of the parts, nearly the sum of small contributions; 0 without any."""

    def forward(self, parts: Tensor, present: Tensor) -> Tensor:
        r"""Returns (\*batch, features)."""
        rest = parts.new_zeros((*parts.shape[:-2], 1, parts.shape[-1]))
        return torch.cat([parts.masked_fill(~present.unsqueeze(-1), -torch.inf), rest], -2).logsumexp(-2)
