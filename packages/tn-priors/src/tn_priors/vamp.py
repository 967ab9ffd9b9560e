r"""The variational mixture of posteriors: p(z) = 1/K sum_k q(z | u_k) over learned pseudo-inputs u_k.

References:
    Tomczak and Welling, VAE with a VampPrior, 2018, equation 9, https://arxiv.org/abs/1705.07120
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from zuko.lazy import LazyDistribution

from tn_priors.simple import DiagonalMixture, no_labels

__all__ = ["VampPrior"]


class VampPrior(LazyDistribution):
    """A mixture, with equal weights, of a model's posteriors at learned pseudo-inputs.

    A model binds its posterior to the prior, and shows it data before training (tn-vae's models do both).

    Arguments:
        shape: of one item of the data.
        components: the number of pseudo-inputs.
        start: "data" starts the pseudo-inputs at items of the data, "mean" near the mean of the data.
        noise: the standard deviation of the normal noise added to that.

    Raises:
        ValueError: if a number is out of its range.
    """

    started: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        components: int = 500,
        *,
        start: Literal["data", "mean"] = "mean",
        noise: float = 0.01,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        if start not in ("data", "mean"):
            raise ValueError(f"start must be 'data' or 'mean', got {start!r}")
        if not noise >= 0:
            raise ValueError(f"noise must not be negative, got {noise}")
        self.components, self.start, self.noise = components, start, noise
        self.labels: tuple[()] = ()
        # the authors' start on MNIST, in case no data are shown
        self.pseudo_inputs = nn.Parameter(0.05 + noise * torch.randn(components, *shape))
        self.register_buffer("started", torch.tensor(False))
        self._posterior: Callable[[Tensor], Distribution] | None = None

    def bind(self, posterior: Callable[[Tensor], Distribution]) -> None:
        """Says what the mixture is made of.

        Arguments:
            posterior: q(z | x): from data (batch, *shape) to independent normals, batch (batch,), event (features,).
        """
        self._posterior = posterior

    @property
    def has_started(self) -> bool:
        """Whether data have been shown."""
        return bool(self.started)

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Starts the pseudo-inputs from data (items, *shape)."""
        if self.start == "data":
            found = x[torch.arange(self.components, device=x.device) % len(x)]
        else:
            found = x.mean(0, keepdim=True)
        self.pseudo_inputs.copy_(found + self.noise * torch.randn_like(self.pseudo_inputs))
        self.started.fill_(True)

    def forward(self, y: None = None) -> DiagonalMixture:
        """Returns p(z).

        Arguments:
            y: None; there are no labels.

        Raises:
            ValueError: if y is given, or no posterior is bound.
        """
        no_labels(self, y)
        if self._posterior is None:
            raise ValueError("a VampPrior is made of a model's posteriors: bind(posterior) first")
        uniform = Categorical(logits=self.pseudo_inputs.new_zeros(self.components))
        return DiagonalMixture(uniform, self._posterior(self.pseudo_inputs.clamp(0, 1)), validate_args=True)

    def extra_repr(self) -> str:
        """The number of pseudo-inputs and how they start."""
        return f"components={self.components}, start={self.start!r}"
