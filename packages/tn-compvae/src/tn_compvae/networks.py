"""The networks of CompVAE: fully connected layers, and messages passed between all parts of a whole."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MessagePassing", "mlp"]


def mlp(*widths: int) -> nn.Sequential:
    """Fully connected layers of these widths, input and output included, with ELU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ELU()]
    return nn.Sequential(*layers[:-1])


class MessagePassing(nn.Module):
    r"""A graph network with a node a part, each connected to all others (CompVAE equation 5).

        h_i <- f(h_i, sum_{j != i} g(h_j))

    It commutes with any permutation of the parts, and takes any number of them.

    Arguments:
        inputs: numbers a node at the start.
        outputs: numbers a node at the end.
        hidden: the width of states, messages and layers.
        layers: how often messages are passed.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * layers]
        self.messages = nn.ModuleList(mlp(width, hidden, hidden) for width in widths[:-1])
        self.updates = nn.ModuleList(mlp(width + hidden, hidden, hidden) for width in widths[:-1])
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, state: Tensor, present: Tensor) -> Tensor:
        r"""Returns (\*batch, parts, outputs), of no meaning in absent places.

        Arguments:
            state: (\*batch, parts, inputs), finite everywhere.
            present: bool (\*batch, parts).
        """
        for message, update in zip(self.messages, self.updates, strict=True):
            sent = message(state).where(present.unsqueeze(-1), 0)
            others = sent.sum(-2, keepdim=True) - sent
            state = functional.elu(update(torch.cat([state, others], -1)))
        found: Tensor = self.out(state)
        return found
