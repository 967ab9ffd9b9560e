r"""Normalising flows over any prior: z = f^{-1}(u), u from the base, with f invertible and learned.

    log p(z, y) = log p_base(f(z), y) + log |det df/dz|.

The labels of the base are not touched by f, so that whatever the base knows of them given u, the flow knows given z.

References:
    TRIP: Kuznetsov et al., A Prior of a Googol Gaussians, 2019, table 7 (flows over three bases).
    Dinh et al., Density estimation using Real NVP, 2016, https://arxiv.org/abs/1605.08803
    Papamakarios et al., Masked Autoregressive Flow for Density Estimation, 2017, https://arxiv.org/abs/1705.07057
    Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import zuko
from torch import Tensor
from torch.distributions import AffineTransform, Transform
from zuko.distributions import NormalizingFlow
from zuko.lazy import LazyDistribution, LazyTransform

from tn_core.components import Component
from tn_priors.chain_mixture import check_values
from tn_priors.fitting import check_fit, fit_by_gradient
from tn_priors.labels import Known

__all__ = ["Flow", "FlowDistribution"]


class Flow(zuko.lazy.Flow):
    r"""A normalising flow by zuko over any base prior, with the base's labels if it has any.

    The density is one pass, samples are as many as there are latents ("RealNVP": one).

    Arguments:
        features: the number of latents.
        base: the prior that the flow bends, over as many latents.
        kind: "NSF": monotonic splines, autoregressive; "MAF": affine, autoregressive; "RealNVP": affine, coupling.
        transforms: how many transformations follow each other.
        hidden: widths of the hidden layers of the network in each.

    Raises:
        ValueError: if a number is out of its range, the kind is unknown, or the base is over another number of latents.

    Example:
        >>> from tn_priors import TRIP
        >>> prior = Flow(8, TRIP(8, components=5, rank=4, labels=[10]))
        >>> prior(torch.tensor([[3], [-1]])).sample((2,)).shape
        torch.Size([2, 2, 8])
        >>> prior.label_posteriors(torch.zeros(3, 8))[0].shape
        torch.Size([3, 10])
    """

    base: Any  # a LazyDistribution, perhaps with labels

    def __init__(
        self,
        features: int,
        base: Annotated[LazyDistribution, Component("priors", "StandardNormal")],
        kind: Literal["NSF", "MAF", "RealNVP"] = "NSF",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        # zuko 1.4 knows RealNVP as NICE, whose transformations are affine
        kinds = {"NSF": zuko.flows.NSF, "MAF": zuko.flows.MAF, "RealNVP": zuko.flows.NICE}
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
        if kind == "RealNVP" and features < 2:
            raise ValueError("RealNVP moves one half of the latents by the other: it needs at least 2, got 1")
        if transforms < 1:
            raise ValueError(f"transforms must be at least 1, got {transforms}")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must name at least one positive width, got {list(hidden)}")
        if base().event_shape != (features,):
            raise ValueError(f"the base is over {tuple(base().event_shape)} latents, the flow over ({features},)")
        bent = kinds[kind](features, transforms=transforms, hidden_features=tuple(hidden)).transform
        super().__init__([Standardize(features), *bent.transforms], base)
        self.features, self.kind = features, kind
        self.labels = tuple(getattr(base, "labels", ()))

    def forward(self, y: Known = None) -> "FlowDistribution":
        r"""Returns p(z | what is known of the labels).

        Arguments:
            y: what is known of the base's labels, in its own words; None: nothing.

        Raises:
            ValueError: if the base has no labels and y is given, or y is not what the base takes.
        """
        return FlowDistribution(self.transform(None), self.base(self._known(y)))

    def _known(self, y: Known) -> Known:
        if y is not None and not self.labels:
            raise ValueError(f"the base {type(self.base).__name__} has no labels: y must be None")
        return y

    def log_prob_labels(self, y: Known) -> Tensor:
        r"""Returns log p(known labels), (\*batch,), in nats: the base's."""
        if self._known(y) is None and not self.labels:
            return self.transform.transforms[0].scale.new_zeros(())
        found: Tensor = self.base.log_prob_labels(y)
        return found

    def log_prob_joint(self, z: Tensor, y: Known = None) -> Tensor:
        r"""Returns log p(z, known labels), (\*batch,), in nats.

        Raises:
            ValueError: if z has another shape or is not finite, or y is not what the base takes.
        """
        if self._known(y) is None:
            return self().log_prob(z)
        u, log_determinant = self._inwards(z)
        found: Tensor = self.base.log_prob_joint(u, y) + log_determinant
        return found

    def label_posteriors(self, z: Tensor, y: Known = None) -> list[Tensor]:
        r"""Returns for each label the probabilities of its values given the latents and the *other* known labels.

        Arguments:
            z: latents (\*batch, features).
            y: what is known of the labels, as in the call.

        Returns:
            For each label (\*batch, N_j).

        Raises:
            ValueError: if there are no labels, z has another shape or is not finite, or y is not what the base takes.
        """
        if not self.labels:
            raise ValueError("this prior has no labels")
        found: list[Tensor] = self.base.label_posteriors(self._inwards(z)[0], y)
        return found

    def label_components(self, j: int) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, (components,) each, of the Gaussians of label ``j``, a continuous one."""
        found: tuple[Tensor, Tensor] = self.base.label_components(j)
        return found

    def complete(self, z: Tensor | None = None, y: Known = None, *, beam: int = 256) -> tuple[Tensor, Tensor]:
        r"""Returns the most probable values of all unknown labels, and their log probability, as the base finds them.

        See :meth:`tn_priors.TRIP.complete`.

        Raises:
            ValueError: if there are no labels, z has another shape or is not finite, or y is not what the base takes.
        """
        if not self.labels:
            raise ValueError("this prior has no labels")
        u = None if z is None else self._inwards(z)[0]
        found: tuple[Tensor, Tensor] = self.base.complete(u, y, beam=beam)
        return found

    def _inwards(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Where latents come from in the base, and log |det df/dz| (\*batch,)."""
        check_values(z, self.features)
        u, log_determinant = self.transform(None).call_and_ladj(z)
        return u, log_determinant

    def fit(self, z: Tensor, y: Tensor | None = None, *, steps: int = 300, learning_rate: float = 1e-2) -> None:
        """Fits the prior to latents of any model: ex-post density estimation.

        The latents are standardised, the base is fitted to where the flow takes them if it has a method ``fit``, and
        gradient steps on the exact log likelihood fit flow and base together. What is fixed in the base stays fixed
        in these.

        Arguments:
            z: latents (samples, features).
            y: labels (samples, labels), -1 or NaN where unknown; not given: all unknown.
            steps: the number of gradient steps.
            learning_rate: their size.

        Raises:
            ValueError: if z has another shape, fewer than 2 samples, or is not finite, labels do not fit, or a number
                is out of its range.
        """
        self._known(y)
        check_fit(z, self.features, y, steps, learning_rate)
        standardize = self.transform.transforms[0]
        z = z.detach().to(standardize.scale)
        standardize.set(z)
        if hasattr(self.base, "fit"):
            with torch.no_grad():
                u = self.transform(None)(z)
            self.base.fit(u, y)
        fit_by_gradient(
            self.log_prob_joint, [p for p in self.parameters() if p.requires_grad], z, y, steps, learning_rate
        )


class FlowDistribution(NormalizingFlow):
    """zuko's flow, which checks values, and whose samples have pathwise gradients where the base's have them.

    Arguments:
        transform: from the latents to the base.
        base: the distribution there.
    """

    @property
    def has_rsample(self) -> bool:
        """Whether the samples' gradients reach the base."""
        return bool(self.base.has_rsample)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log density (\*batch,) of values (\*batch, features), in nats."""
        check_values(value, self.event_shape[0])
        found: Tensor = super().log_prob(value)
        return found

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws samples (\*sample_shape, \*batch, features)."""
        # not by rsample, which spends time on gradients in some bases
        found: Tensor = self.transform.inv(self.base.sample(torch.Size(sample_shape)))
        return found

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws samples (\*sample_shape, \*batch, features) with pathwise gradients to flow and base.

        Raises:
            NotImplementedError: if the base's samples carry no gradients.
        """
        if not self.has_rsample:
            raise NotImplementedError("the base's samples carry no gradients")
        found: Tensor = super().rsample(torch.Size(sample_shape))
        return found


class Standardize(LazyTransform):
    """Shifts and scales the latents: splines bend what lies within 5 units of zero and nothing else.

    Arguments:
        features: the number of latents.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    @torch.no_grad()
    def set(self, z: Tensor) -> None:
        """Takes mean and deviation of latents (samples, features)."""
        self.shift.copy_(z.mean(0))
        self.scale.copy_(z.std(0).clamp_min(1e-3))

    def forward(self, c: None = None) -> Transform:
        """The transform; there is no context."""
        return AffineTransform(-self.shift / self.scale, 1 / self.scale, event_dim=1)
