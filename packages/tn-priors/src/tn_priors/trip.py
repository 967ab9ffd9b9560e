"""Tensor-ring and tensor-train induced priors over latents, alone or jointly with labels.

References:
    TRIP: Kuznetsov et al., A Prior of a Googol Gaussians, 2019, sections 2 to 4.
    TTLP: Kuznetsov et al., Subset-Conditioned Generation, 2018, section 3.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from tn_core.chain import log_probability
from tn_core.cores import Boundary
from tn_core.protocols import Interval
from tn_core.tensor_chain import TensorChain
from tn_priors.chain_mixture import ChainMixture, normal_log_density
from tn_priors.fitting import (
    check_fit,
    check_latents,
    fit_by_gradient,
    fit_mixture_of_products,
    informative,
    mixtures_1d,
)
from tn_priors.labels import (
    Categorical,
    Continuous,
    Known,
    Label,
    as_label,
    can_look_at,
    categorical_evidence,
    integer_evidence,
)

__all__ = ["TRIP", "TTLP"]


class TRIP(LazyDistribution):
    r"""Tensor Ring Induced Prior: a mixture of ``components ** features`` Gaussians on a lattice.

    The weight of a lattice node is a tensor ring over the components of every latent and the values of every label, so
    that the density of any subset of latents and labels, given any other, is exact.

    Labels sit on the chain at even distances among the latents, whose order is a random permutation (section 4 of the
    paper), fixed by ``order_seed``; :meth:`fit` finds an order of its own. It is saved with the module.

    Arguments:
        features: the number of latents.
        components: the number of Gaussians a latent.
        rank: the width of the bonds, the "core size" of the papers.
        labels: the labels: ``Categorical``, ``Continuous``, an integer for so many values, or an ``Interval``.
        boundary: "ring" or "train".
        closing_rank: the width of a ring's bond between its last variable and its first, from 1 (as cheap as a train)
            to the rank; None: the rank.
        learnable: False fixes all parameters.
        start: "mixture" starts near a mixture of ``rank`` products of independent variables, with several labels one
            for the stretch of the chain round each; "random" at random cores.
        mean_range: the means start evenly spaced from minus this to this (the papers: 5 for VAEs, 1 for GANs).
        deviation: the standard deviation all Gaussians start at. By default they overlap: a smoother landscape than
            narrow ones on a lattice.
        order_seed: the seed of the order of the variables.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> prior = TRIP(features=8, components=5, rank=4, labels=[10])
        >>> prior().log_prob(torch.zeros(3, 8)).shape
        torch.Size([3])
        >>> prior(torch.tensor([[3], [-1]])).sample((2,)).shape
        torch.Size([2, 2, 8])
    """

    def __init__(
        self,
        features: int,
        components: int = 10,
        rank: int = 20,
        labels: Sequence[int | Interval | Label] = (),
        boundary: Boundary = "ring",
        *,
        closing_rank: int | None = None,
        learnable: bool = True,
        start: Literal["mixture", "random"] = "mixture",
        mean_range: float = 1.5,
        deviation: float = 1.0,
        order_seed: int = 0,
    ) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        if not mean_range > 0:
            raise ValueError(f"mean_range must be positive, got {mean_range}")
        if not deviation > 0:
            raise ValueError(f"deviation must be positive, got {deviation}")
        self.features, self.components = features, components
        self.labels = tuple(as_label(label) for label in labels)
        label_sizes = [x.size if isinstance(x, Categorical) else x.components for x in self.labels]
        self.sizes = (*[components] * features, *label_sizes)  # latents first, then labels
        order = _spread(features, len(self.labels), order_seed)
        self.register_buffer("order", order)  # order[position]: which variable, latents first, then labels
        self.chain = TensorChain(
            [self.sizes[v] for v in order.tolist()],
            rank,
            boundary,
            closing_rank=closing_rank,
            start=start,
            learnable=learnable,
        )
        self._read_order()
        self.register_load_state_dict_post_hook(TRIP._read_order)

        def own(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value, requires_grad=learnable)

        means = torch.linspace(-mean_range, mean_range, components) if components > 1 else torch.zeros(1)
        self.means = own(means.repeat(features, 1))
        self.log_deviations = own(torch.full((features, components), deviation).log())
        self.label_means = nn.ParameterList()
        self.label_log_deviations = nn.ParameterList()
        for label in self.labels:
            if isinstance(label, Categorical):
                continue
            # in units in which the label's interval is (-3, 3): one learning rate has to suit every label
            self.label_means.append(own(torch.linspace(-3, 3, label.components)))
            self.label_log_deviations.append(own(torch.full((label.components,), 6 / label.components).log()))
        if start == "mixture":
            self._start_near_mixture()

    def _read_order(self, _: object = None) -> None:
        """Keeps the position of every variable as a list, also after another order was loaded, which is checked."""
        self.chain.arrange(self._sizes_in(self.order))
        self._position: list[int] = torch.argsort(self.order).tolist()

    def _sizes_in(self, order: Tensor) -> list[int]:
        if sorted(order.tolist()) != list(range(len(self.sizes))):
            raise ValueError(f"order must be a permutation of {len(self.sizes)} variables, got {order.tolist()}")
        return [self.sizes[v] for v in order.tolist()]

    @torch.no_grad()
    def set_order(self, order: Tensor) -> None:
        """Puts the variables in another order along the chain, before all cores are written anew.

        Arguments:
            order: a permutation of the variables, latents first, then labels.

        Raises:
            ValueError: if it is none; or with a narrower closing bond, which would need cores of other shapes.
        """
        self.chain.arrange(self._sizes_in(order))  # which may raise, before anything is changed
        self.order.copy_(order)
        self._read_order()

    @torch.no_grad()
    def _start_near_mixture(self) -> None:
        """Gives every value of the bond a place of its own in the latents' space, and a value of every label."""
        rank = self.chain.rank

        def near_a_place(means: Tensor) -> Tensor:
            reach = means.abs().amax().clamp_min(1e-6)
            centre = torch.randn(rank, 1).to(means) * (0.27 * reach)
            return torch.exp(-0.5 * ((means - centre) / (0.2 * reach)) ** 2) + 1e-3

        tables = [near_a_place(means) for means in self.means]
        continuous = iter(self.label_means)
        values = torch.arange(rank)
        for label in self.labels:
            if isinstance(label, Continuous):
                tables.append(near_a_place(next(continuous)))
            else:
                one_hot = nn.functional.one_hot(values % label.size, label.size).to(self.means)
                tables.append(one_hot + 0.1 / label.size)
                values = torch.randperm(rank)  # labels of one size do not start as the same
        self.set_mixture(torch.ones(rank).to(self.means), tables)

    def set_mixture(self, weights: Tensor, tables: Sequence[Tensor]) -> None:
        """Writes a mixture of ``rank`` products of independent variables into the cores of each block.

        Arguments:
            weights: (rank,), the weight of each product, or (blocks, rank).
            tables: for each latent, then each label, (rank, N_k): the probabilities of its values in each product.

        Raises:
            ValueError: if a shape is not as above.
        """
        starts = [0, *itertools.accumulate(map(len, self.blocks[:-1]))]
        self.chain.set_mixture(weights, [tables[v] for v in self.order.tolist()], blocks=starts)

    @property
    def blocks(self) -> list[list[int]]:
        """The variables of a stretch of the chain round each label, in growing order; without labels all of them.

        The prior starts with the stretches independent of each other. One mixture of products of everything would start
        with every label bound to every other, and hardly come away from that where few of them are known.
        """
        order = self.order.tolist()
        places = sorted(self._position[self.features :])
        cuts = [0, *((a + b + 1) // 2 for a, b in itertools.pairwise(places)), len(order)]
        return [sorted(order[a:b]) for a, b in itertools.pairwise(cuts)]

    @property
    def boundary(self) -> Boundary:
        """Ring or train."""
        return self.chain.boundary

    @property
    def deviations(self) -> Tensor:
        """Standard deviations (features, components)."""
        return self.log_deviations.exp()

    def forward(self, y: Known = None) -> ChainMixture:
        r"""Returns p(z | what is known of the labels).

        Arguments:
            y: None: nothing; a tensor (\*batch, labels) of values, -1 (categorical) or NaN where unknown; or a sequence
                with an entry a label. For a categorical label: None, integers (\*batch,), a bool mask (\*batch, N_j)
                of the values allowed, or floats (\*batch, N_j), log weights. For a continuous one: None or floats
                (\*batch,).

        Raises:
            ValueError: if a shape does not fit; and, for labels on the CPU, if a value is out of range.
        """
        return ChainMixture(
            self.chain.cores,
            self.boundary,
            self._position[: self.features],
            self.means,
            self.deviations,
            {self._position[v]: e for v, e in self.label_evidence(y).items()},
            validate_args=True,  # importing zuko turns torch's default off
        )

    def label_evidence(self, y: Known) -> dict[int, Tensor]:
        """The log weights of labels that anything is known of, by variable: ``features`` + the label's number."""
        count = len(self.labels)
        if y is None:
            return {}
        if isinstance(y, Tensor):
            if y.ndim < 1 or y.shape[-1] != count:
                raise ValueError(f"y must have shape (*batch, {count}), got {tuple(y.shape)}")
            entries: list[Tensor | None] = list(y.unbind(-1))
            wanted = [j for j, label in enumerate(self.labels) if isinstance(label, Categorical)]
            if wanted:  # all at once
                values = torch.stack([y[..., j] for j in wanted], -1)
                names = [f"label {j}" for j in wanted]
                every = integer_evidence(values, [self.sizes[self.features + j] for j in wanted], names)
                for j, weights in zip(wanted, every, strict=True):
                    entries[j] = weights
        else:
            entries = list(y)
            if len(entries) != count:
                raise ValueError(f"y must have one entry for each of {count} labels, got {len(entries)}")
        evidence = {}
        for j, (label, known) in enumerate(zip(self.labels, entries, strict=True)):
            if known is None:
                continue
            if isinstance(label, Categorical):
                found = categorical_evidence(known, self.sizes[self.features + j], f"label {j}")
            else:
                if not known.is_floating_point():
                    raise ValueError(f"label {j} is continuous: it takes floats, NaN where unknown, got {known.dtype}")
                value = known.to(self.means).unsqueeze(-1)
                if can_look_at(value) and bool(torch.isinf(value).any()):
                    raise ValueError(f"label {j} must be finite, or NaN where unknown; got infinity")
                unknown = torch.isnan(value)
                found = normal_log_density(torch.where(unknown, 0, value), *self.label_components(j))
                found = torch.where(unknown, 0, found)
            evidence[self.features + j] = found.to(self.means)
        return evidence

    def label_components(self, j: int) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, (components,) each, of the Gaussians of label ``j``, a continuous one.

        Raises:
            ValueError: if it is not continuous.
        """
        label = self.labels[j]
        if not isinstance(label, Continuous):
            raise ValueError(f"label {j} is not continuous")
        k = sum(isinstance(before, Continuous) for before in self.labels[:j])
        centre, unit = (label.low + label.high) / 2, (label.high - label.low) / 6
        return centre + unit * self.label_means[k], unit * self.label_log_deviations[k].exp()

    def log_prob_labels(self, y: Known) -> Tensor:
        r"""Returns log p(known labels), (\*batch,), in nats (a density where labels are continuous)."""
        p = self(y)
        return log_probability(p.cores, p.evidence or None, boundary=p.boundary)

    def log_prob_joint(self, z: Tensor, y: Known = None) -> Tensor:
        r"""Returns log p(z, known labels), (\*batch,), in nats: log p(z | y) + log p(y) in one pass."""
        return self(y).log_prob_with_evidence(z)

    def label_posteriors(self, z: Tensor, y: Known = None) -> list[Tensor]:
        r"""Returns for each label the probabilities of its values given the latents and the *other* known labels.

        Exact. For a continuous label the probabilities are those of its components (:meth:`label_components`).

        Arguments:
            z: latents (\*batch, features).
            y: what is known of the labels, as in the call.

        Returns:
            For each label (\*batch, N_j).
        """
        if not self.labels:
            raise ValueError("this prior has no labels")
        places, sizes = self._position[self.features :], self.sizes[self.features :]
        found = self.chain.marginals(self(y).with_values(z), variables=places, own_evidence=False)
        return [found[..., j, :size] for j, size in enumerate(sizes)]

    @torch.no_grad()
    def complete(self, z: Tensor | None = None, y: Known = None, *, beam: int = 256) -> tuple[Tensor, Tensor]:
        r"""Returns the most probable values of all unknown categorical labels together, given everything known.

        A beam search, exact whenever the unknown labels of an item have at most ``beam`` combinations (see
        :func:`tn_core.mode`); their probability is exact in any case. The most probable values of each label alone,
        which may differ, are the maxima of :meth:`label_posteriors`. Continuous labels are evidence where known, and
        integrated out where not. The search holds up to (\*batch, beam, rank, rank) numbers at once, and on a train
        (\*batch, beam, rank).

        Arguments:
            z: latents (\*batch, features); None: unknown.
            y: what is known of the labels, as in the call.
            beam: how many combinations of the first labels are kept on the way.

        Returns:
            The labels (\*batch, labels): the known ones as they are, the others as found, of a set one in the set.
            Long; if a label is continuous floats, NaN where a continuous one is unknown. And the log probability
            (\*batch,) of these values given what is known, in nats.

        Raises:
            ValueError: if there is no categorical label, a shape does not fit, the beam is below 1, or, on the CPU, a
                value is out of range.
        """
        wanted = [j for j, label in enumerate(self.labels) if isinstance(label, Categorical)]
        if not wanted:
            raise ValueError("this prior has no categorical labels to complete")
        p = self(y)
        evidence = p.evidence if z is None else p.with_values(z)
        places = [self._position[self.features + j] for j in wanted]
        states, log_weight = self.chain.mode(evidence or None, beam=beam, variables=places)
        log_p = log_weight - (p.log_normalizer() if z is None else p.log_joint(z))
        found = states[..., places]
        if len(wanted) < len(self.labels):
            values = torch.full((*found.shape[:-1], len(self.labels)), torch.nan).to(self.means)
            values[..., wanted] = found.to(values)
            for j, label in enumerate(self.labels):
                known = None if y is None else y[..., j] if isinstance(y, Tensor) else y[j]
                if isinstance(label, Continuous) and known is not None:
                    values[..., j] = known.to(values)
            found = values
        return found, log_p

    @torch.no_grad()
    def reinitialize(self, z: Tensor) -> None:
        """Starts again from latents as the papers do: one-dimensional mixtures, then fresh random cores.

        Means and deviations are fitted by expectation maximisation, the cores are drawn at random (TRIP section 3.1).
        ``fit(z, y, steps=0)`` fits the cores as well, with labels: the better start.
        An optimiser that holds the parameters should start anew as well.

        Arguments:
            z: latents (samples, features).

        Raises:
            ValueError: if z has another shape, fewer than 2 samples, or is not finite.
        """
        check_latents(z, self.features)
        means, deviations, _ = mixtures_1d(z.detach().to(self.means), self.components)
        self.means.copy_(means)
        self.log_deviations.copy_(deviations.log())
        self.chain.set_random()

    def fit(self, z: Tensor, y: Tensor | None = None, *, steps: int = 300, learning_rate: float | None = None) -> None:
        """Fits the prior to latents of any model: ex-post density estimation. Fits fixed parameters too.

        One-dimensional mixtures give means and deviations; variables that tell of each other are put side by side
        (but with a ``closing_rank`` below the rank); a mixture of ``rank`` products is fitted by expectation
        maximisation, to the labels too, and written into the cores; gradient steps on the exact log likelihood do the
        rest. ``steps=0`` is the start alone, for a prior that goes on learning with its model; a better one than
        :meth:`reinitialize`, the papers'.

        Arguments:
            z: latents (samples, features).
            y: labels (samples, labels), -1 or NaN where unknown; not given: all unknown.
            steps: the number of gradient steps.
            learning_rate: their size; None: 0.1 where at least ten thousand samples tell of the latents and of every
                label that any tells of, else 0.01: fewer would be overfitted.

        Raises:
            ValueError: if z has another shape, fewer than 2 samples, or is not finite, labels do not fit, or a number
                is out of its range.
        """
        check_fit(z, self.features, y, steps, 1 if learning_rate is None else learning_rate)
        if learning_rate is None:
            told = [len(z), *(int(informative(w).sum()) for w in self.label_evidence(y).values())]
            learning_rate = 0.1 if min(filter(None, told)) >= 10_000 else 0.01
        z = z.detach().to(self.means)
        fit_mixture_of_products(self, z, y)
        fit_by_gradient(self.log_prob_joint, list(self.parameters()), z, y, steps, learning_rate)


def _spread(features: int, labels: int, seed: int) -> Tensor:
    """The order of the variables: latents permuted, labels at even distances among them."""
    # NumPy promises never to change this stream; torch does not
    latents = np.random.RandomState(seed).permutation(features).tolist()
    n = features + labels
    label_positions = {int((j + 0.5) * n / labels): features + j for j in range(labels)} if labels else {}
    return torch.tensor([label_positions[p] if p in label_positions else latents.pop(0) for p in range(n)])


class TTLP(TRIP):
    """Tensor-Train Induced Prior: :class:`TRIP` with an open chain, whose cost grows with rank squared, not cubed.

    Arguments:
        features: the number of latents.
        components: the number of Gaussians a latent.
        rank: the width of the bonds, the "core size" of the papers.
        labels: the labels: ``Categorical``, ``Continuous``, an integer for so many values, or an ``Interval``.
        learnable: False fixes all parameters.
        start: "mixture" starts near a mixture of ``rank`` products of independent variables, with several labels one
            for the stretch of the chain round each; "random" at random cores.
        mean_range: the means start evenly spaced from minus this to this (the papers: 5 for VAEs).
        deviation: the standard deviation all Gaussians start at.
        order_seed: the seed of the order of the variables.
    """

    def __init__(
        self,
        features: int,
        components: int = 10,
        rank: int = 20,
        labels: Sequence[int | Interval | Label] = (),
        *,
        learnable: bool = True,
        start: Literal["mixture", "random"] = "mixture",
        mean_range: float = 1.5,
        deviation: float = 1.0,
        order_seed: int = 0,
    ) -> None:
        super().__init__(
            features,
            components,
            rank,
            labels,
            "train",
            learnable=learnable,
            start=start,
            mean_range=mean_range,
            deviation=deviation,
            order_seed=order_seed,
        )
