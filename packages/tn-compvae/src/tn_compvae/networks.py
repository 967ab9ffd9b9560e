"""The networks of CompVAE, all that it learns: fully connected, or convolutional for images.

Distributions come as numbers: means, then deviations before they are made positive.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tn_compvae.sets import Schema
from tn_core.protocols import Interval

__all__ = ["MessagePassing", "PartsConv", "PartsLarge", "PartsMLP", "PartsNetwork", "mlp"]


def mlp(*widths: int) -> nn.Sequential:
    """Fully connected layers of these widths, input and output included, with ELU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ELU()]
    return nn.Sequential(*layers[:-1])


class SaturatingSum(nn.Module):
    r"""A linear map that saturates, to which fully connected layers add the rest.

        f(x) = c tanh(A x / c) + r

    with levels c > 0 and a rest r by layers from x, one an output. Large levels leave the map linear.

    For a decoder of summed latents. What adds up needs no layers, so that the latents of a part come to mean the same
    whatever the other parts are. And what is bounded keeps the gain of small sums: without the levels the map has to be
    flatter for sets whose wholes saturate, latents mean less there, and no prior of a part fits sets of all sizes.

    Arguments:
        widths: of the layers, input and output included.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.linear = nn.Linear(widths[0], widths[-1], bias=False)
        self.layers = mlp(*widths[:-1], 2 * widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs) to (batch, outputs)."""
        rest, level = self.layers(x).chunk(2, -1)
        level = 1e-3 + functional.softplus(level + 1)  # above 1 at first: nothing is saturated
        found: Tensor = level * torch.tanh(self.linear(x) / level) + rest
        return found


@torch.no_grad()
def spread(network: nn.Sequential, inputs: Tensor, mean: float, deviation: float) -> None:
    """Sets the last layer so that each output has this mean and deviation over the inputs; one that is constant stays.

    Arguments:
        network: of fully connected layers, changed in place.
        inputs: (batch, inputs).
        mean: of every output.
        deviation: of every output.
    """
    last, found = network[-1], network(inputs)
    assert isinstance(last, nn.Linear)
    before = found.std(0)
    factor = torch.where(before > 1e-6, deviation / before, 1)
    last.bias.copy_(mean + factor * (last.bias - found.mean(0)))
    last.weight.mul_(factor.unsqueeze(1))


class MessagePassing(nn.Module):
    r"""A graph network with a node a part, each connected to all others (CompVAE equation 5).

        h_i <- f(h_i, sum_{j != i} g(h_j))

    It commutes with any permutation of the parts, and takes any number of them; f ends with layer normalisation, so
    that the states of large sets, and of wholes unlike those of the training data, do not explode.

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
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, state: Tensor, whole: Tensor, wholes: int) -> Tensor:
        r"""Returns (nodes, outputs).

        The nodes of all wholes come in one row, without the places that hold no part: with sizes from 1 to K half of
        the places of a padded batch would be computed for nothing.

        Arguments:
            state: (nodes, inputs).
            whole: which whole each node belongs to, long (nodes,).
            wholes: how many there are.
        """
        for message, update, norm in zip(self.messages, self.updates, self.norms, strict=True):
            sent = message(state)
            others = sent.new_zeros(wholes, sent.shape[-1]).index_add(0, whole, sent)[whole] - sent
            state = functional.elu(norm(update(torch.cat([state, others], -1))))
        found: Tensor = self.out(state)
        return found


class PartsNetwork(nn.Module):
    r"""The networks of a model of wholes made of parts.

    The numbers of q({w_i} | x, z, {l_i}) are relative to p(w_i | l_i): the shift of the mean and the factor of the
    deviation, in deviations of the prior. Categories differ from the start in their priors, and in what stands for
    them in the posterior more than noise does. Otherwise learning ends with the same prior for every category, and
    parts that can be taken for one another.

    Arguments:
        shape: of one whole.
        encoder: of q(z | x), wholes (batch, \*shape) to 2 * global_features numbers.
        context: of q({w_i} | x, z, {l_i}), wholes to ``part_hidden`` numbers.
        decoder: of p(x | z, w), features + global_features numbers to means and raw deviations, (batch, 2, \*shape).
        features: the size of each part's latents w_i.
        global_features: the size of the whole's, z.
        labels: for each place the number of categories and the intervals of the numbers of a part, the same for all.
        embedding: how many stand for it in q({w_i} | x, z, {l_i}), and the noise there that tells equal parts apart.
        hidden: the width of the layers of p(z | w).
        part_hidden: the width of layers that are computed for every part.
        layers: how often the parts exchange messages in q({w_i} | x, z, {l_i}).

    Raises:
        ValueError: if a number is below 1, or the labels are not those of sets of parts.
    """

    def __init__(
        self,
        shape: Sequence[int],
        encoder: nn.Module,
        context: nn.Module,
        decoder: nn.Module,
        *,
        features: int,
        labels: Sequence[int | Interval],
        global_features: int,
        embedding: int,
        hidden: int,
        part_hidden: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.shape, self.features, self.global_features, self.embedding = (
            tuple(shape),
            features,
            global_features,
            embedding,
        )
        self.schema, self.places = Schema.of(labels)
        part = self.schema.described
        # a category alone needs one layer; where there are numbers, most of a part is told, and little left to latents
        told = [part_hidden] * (2 if self.schema.numbers else 1)
        raw_deviation = -4 if self.schema.numbers else -1
        # generative side: p(w_i | l_i), p(z | w), p(x | z, w)
        self.part_mean = mlp(part, *told, features)
        self.part_deviation = mlp(part, part_hidden, features)
        self.whole_prior = mlp(features, hidden, hidden, 2 * global_features)
        self.decoder = decoder
        # inference side: q(z | x), and q({w_i} | x, z, {l_i}) by a graph network
        self.encoder, self.context = encoder, context
        self.embed = mlp(part, *told, embedding)
        self.graph = MessagePassing(part_hidden + global_features + embedding, 3 * features, part_hidden, layers)

        some = self.schema.describe(self.schema.read(self.schema.draw(1000, 1)), self.dtype).squeeze(1)
        spread(self.embed, some, 0, 3)
        spread(self.part_mean, some, 0, 1)
        spread(self.part_deviation, some, raw_deviation, 2)

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""
        return next(self.parameters()).dtype

    def parts(self, x: Tensor, z: Tensor, part: Tensor, present: Tensor, noise: Tensor) -> Tensor:
        r"""The numbers of q({w_i} | x, z, {l_i}), (batch, places, 3 \* features).

        Shifts of the means and raw factors of the deviations, relative to p(w_i | l_i), and logits.
        """
        same = torch.cat([self.context(x), z], -1)
        whole, place = present.nonzero(as_tuple=True)
        found = self.graph(
            torch.cat([same[whole], self.embed(part[whole, place]) + noise[whole, place]], -1), whole, len(x)
        )
        return found.new_zeros(*present.shape, found.shape[-1]).index_put((whole, place), found)


class PartsMLP(PartsNetwork):
    """Fully connected networks, for wholes of any shape.

    Arguments:
        shape: of one whole.
        features: w_i.
        labels: for each place the number of categories and the intervals of the numbers, the same for all.
        global_features: z.
        embedding: that stand for a part in the inference of the parts.
        hidden: the width of layers that are computed once for a whole.
        part_hidden: the width of those that are computed for every part.
        layers: of messages.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(
        self,
        shape: Sequence[int],
        features: int,
        labels: Sequence[int | Interval],
        global_features: int = 2,
        embedding: int = 16,
        hidden: int = 384,
        part_hidden: int = 128,
        layers: int = 2,
    ) -> None:
        _check(
            features=features,
            global_features=global_features,
            embedding=embedding,
            hidden=hidden,
            part_hidden=part_hidden,
            layers=layers,
        )
        size = math.prod(shape)

        def encoder(outputs: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), *mlp(size, hidden, hidden, outputs))

        super().__init__(
            shape,
            encoder(2 * global_features),
            encoder(part_hidden),
            nn.Sequential(
                SaturatingSum(features + global_features, hidden, hidden, 2 * size),
                nn.Unflatten(1, (2, *tuple(shape))),
            ),
            features=features,
            global_features=global_features,
            labels=labels,
            embedding=embedding,
            hidden=hidden,
            part_hidden=part_hidden,
            layers=layers,
        )


class PartsLarge(PartsMLP):
    """The same with the widths of the paper's code: three layers of messages, and 2,048 units in all layers."""

    def __init__(
        self,
        shape: Sequence[int],
        features: int,
        labels: Sequence[int | Interval],
        global_features: int = 8,
        embedding: int = 256,
        hidden: int = 2048,
        part_hidden: int = 2048,
        layers: int = 3,
    ) -> None:
        super().__init__(shape, features, labels, global_features, embedding, hidden, part_hidden, layers)


class PartsConv(PartsNetwork):
    """Convolutions for images whose height and width are multiples of four.

    All channels of a pixel have one deviation (CompVAE, section 4.2).

    Arguments:
        shape: (channels, height, width).
        features: w_i.
        labels: for each place the number of categories and the intervals of the numbers, the same for all.
        global_features: z.
        embedding: that stand for a part in the inference of the parts.
        hidden: the width of fully connected layers that are computed once for a whole.
        part_hidden: the width of those that are computed for every part.
        layers: of messages.
        channels: of the larger and of the smaller maps.

    Raises:
        ValueError: if a number is below 1, or the shape does not fit.
    """

    def __init__(
        self,
        shape: Sequence[int],
        features: int,
        labels: Sequence[int | Interval],
        global_features: int = 2,
        embedding: int = 16,
        hidden: int = 512,
        part_hidden: int = 256,
        layers: int = 2,
        channels: tuple[int, int] = (16, 32),
    ) -> None:
        _check(
            features=features,
            global_features=global_features,
            embedding=embedding,
            hidden=hidden,
            part_hidden=part_hidden,
            layers=layers,
            channels=min(channels),
        )
        if len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
            raise ValueError(
                f"PartsConv needs images (channels, height, width), height and width multiples of 4; got {tuple(shape)}"
            )
        large, small = channels
        smallest = (small, shape[1] // 4, shape[2] // 4)

        def encoder(outputs: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(shape[0], large, 4, 2, 1),
                nn.ELU(),
                nn.Conv2d(large, small, 4, 2, 1),
                nn.ELU(),
                nn.Flatten(),
                *mlp(math.prod(smallest), hidden, outputs),
            )

        super().__init__(
            shape,
            encoder(2 * global_features),
            encoder(part_hidden),
            nn.Sequential(
                *mlp(features + global_features, hidden, hidden, math.prod(smallest)),
                nn.ELU(),
                nn.Unflatten(1, smallest),
                nn.ConvTranspose2d(small, large, 4, 2, 1),
                nn.ELU(),
                nn.ConvTranspose2d(large, shape[0] + 1, 4, 2, 1),
                _OneDeviation(),
            ),
            features=features,
            global_features=global_features,
            labels=labels,
            embedding=embedding,
            hidden=hidden,
            part_hidden=part_hidden,
            layers=layers,
        )


class _OneDeviation(nn.Module):
    """Takes the last channel to be the raw deviation of all others."""

    def forward(self, maps: Tensor) -> Tensor:
        mean, raw = maps[:, :-1], maps[:, -1:]
        return torch.stack([mean, raw.expand_as(mean)], 1)


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
