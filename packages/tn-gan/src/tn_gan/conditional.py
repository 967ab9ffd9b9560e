r"""The conditional GAN whose labels are variables of the prior, trained on partly labelled data.

    z ~ p_psi(z | y_ob),   x = G(z)

The generator is given latents alone: labels reach it by the prior, which is one over latents and labels, as TRIP's is.
For each item of a batch a sample is drawn given what is known of that item's labels; the discriminator compares data
and samples that have the same labels known, so that labels may be missing in any pattern. It looks at them in one of
two ways, both with one more output for each value of each label:

    projection    its score is   f(x) + sum of g_{j, y_j}(x) over the known labels j
    classifier    the g_j are logits of p(y_j | x), learned from labelled data, by which samples are to be recognised

The prior's own labels are learned from log p(y_ob). A label reaches the data only as far as latents tell it, so a prior
that has a density of latents and labels together pays for what they leave open: -log p(y_ob | z), exact.

References:
    Odena et al., Conditional Image Synthesis with Auxiliary Classifier GANs, 2017, https://arxiv.org/abs/1610.09585
    Miyato and Koyama, cGANs with Projection Discriminator, 2018, equation 4, https://arxiv.org/abs/1802.05637
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, sections 3.2 and 4
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_gan.gan import GAN, OBJECTIVES, Costs, Estimator, ObjectiveName, Part

__all__ = ["ConditionalGAN"]

Conditioning = Literal["projection", "classifier"]


class ConditionalGAN(GAN):
    """Conditional generative adversarial network with any prior over latents and labels.

    Batches are ``(x, y)``, y long (batch, labels), -1 where unknown.

    Arguments:
        network: a pair of a discriminator, ``encoder``, with an output and one more for each value of each label, and a
            generator, ``decoder``.
        prior: a module with ``labels`` whose call with labels, -1 where unknown, returns a distribution over latents,
            and with ``log_prob_labels``.
        labels: the number of values of each label.
        conditioning: how the discriminator looks at labels: "projection" or "classifier".
        label_weight: of log p(y | z), by the prior, for the generator; and of log p(y | x), by the classifier, for both
            players.
        objective: as of :class:`GAN`.
        estimator: of the gradient of the prior's parameters: "pathwise", "score-function" or "hybrid".
        clip: "wgan" keeps the discriminator's parameters within minus and plus this.
        penalty: the weight of the gradient penalty of "wgan-gp".
        discriminator_steps: steps of the discriminator to one of the generator (the paper: 4).
        learning_rate: of generator and discriminator (Adam; the paper: 1e-4).
        discriminator_learning_rate: of the discriminator, if it is to have its own (two time-scales).
        prior_learning_rate: of the prior.
        betas: Adam's decay rates (the default is DCGAN's; Gulrajani et al. have 0 and 0.9 for "wgan-gp").
        averaging: if above 0, at the end of training generator and prior become an exponential moving average of what
            they were, of this decay rate a step.
        gradient_batches: if above 0, so many gradients of the prior are drawn by each estimator at the end of every
            epoch, and their variances logged.

    Raises:
        ValueError: if a number is out of its range, the network is no such pair, or there are no labels.
    """

    has_labels = True

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "GANConv", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "TRIP")],
        labels: Sequence[int],
        conditioning: Conditioning = "projection",
        label_weight: float = 1.0,
        objective: ObjectiveName = "non-saturating",
        estimator: Estimator = "hybrid",
        clip: float = 0.01,
        penalty: float = 10.0,
        discriminator_steps: int = 1,
        learning_rate: float = 1e-3,
        discriminator_learning_rate: float | None = None,
        prior_learning_rate: float = 3e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        averaging: float = 0.0,
        gradient_batches: int = 0,
    ) -> None:
        super().__init__(
            network,
            prior,
            objective,
            estimator,
            clip,
            penalty,
            discriminator_steps,
            learning_rate,
            discriminator_learning_rate,
            prior_learning_rate,
            betas,
            averaging,
            gradient_batches,
        )
        if conditioning not in get_args(Conditioning):
            raise ValueError(f"conditioning must be 'projection' or 'classifier', got {conditioning!r}")
        if not label_weight >= 0:
            raise ValueError(f"label_weight must be at least 0, got {label_weight}")
        if not getattr(prior, "labels", ()):
            raise ValueError(f"the prior {type(prior).__name__} has no labels; TRIP, TTLP and LabelEmbedding have")
        self.sizes = tuple(labels)
        self.outputs = self.network_size(labels)["outputs"]
        self.conditioning, self.label_weight = conditioning, label_weight

    @staticmethod
    def network_size(labels: Sequence[int], **_: Any) -> dict[str, Any]:
        """What the network is to be made for."""
        for j, size in enumerate(labels):
            if not isinstance(size, int):
                raise ValueError(f"label {j} is continuous; this model takes categorical labels only")
        if not labels:
            raise ValueError("these data have no labels")
        return {"outputs": 1 + sum(labels)}

    # what the discriminator says

    def discriminate(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The score of each item, (batch,), with its labels (batch, labels), -1 where unknown."""
        return self._judge(x, y)[0]

    def _judge(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The score of each item, (batch,), and by the classifier log p(y_ob | x), (batch,), in nats."""
        first, *values = self._scores(x, self.outputs).split([1, *self.sizes], -1)
        score = first.squeeze(1)
        if y is None:
            return score, None
        if self.conditioning == "projection":
            return score + _of_known(values, y), None
        return score, _of_known([part.log_softmax(-1) for part in values], y)

    # what they play for

    def costs(self, part: Part, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What each item costs, (batch,): as in a GAN; and a label that the classifier does not recognise.

        Of data that is the discriminator's cost, of samples the generator's.
        """
        costs: Costs = getattr(OBJECTIVES[self.objective], part)
        score, log_p = self._judge(x, y)
        if y is None or log_p is None or part == "fake":
            return costs(score)
        return costs(score) - self._over_labelled(log_p, y)

    def latent_costs(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """What each latent costs: its data; and labels that it does not tell, where the prior knows p(y_ob | z)."""
        cost = super().latent_costs(z, y)
        if y is None or not hasattr(self.prior, "log_prob_joint"):
            return cost
        return cost - self._over_labelled(self.prior.log_prob_joint(z, y) - self.prior().log_prob(z), y)

    def _over_labelled(self, log_p: Tensor, y: Tensor) -> Tensor:
        """Weighted log p(y_ob | ...), (batch,), whose mean is that over labelled items: it is 0 of the others."""
        share = (y >= 0).any(1).double().mean().clamp_min(1 / len(y))
        return self.label_weight / share.to(log_p) * log_p

    def generator_loss(self, count: int, y: Tensor | None = None) -> Tensor:
        """What the generator and the prior minimise, a scalar: as a GAN's, and -log p(y_ob)."""
        loss = super().generator_loss(count, y)
        return loss if y is None else loss - self.prior.log_prob_labels(y).mean()


def _of_known(values: Sequence[Tensor], y: Tensor) -> Tensor:
    """For each item the sum of the values of its known labels, (batch,)."""
    total: Any = 0
    for part, label in zip(values, y.unbind(-1), strict=True):
        chosen = part.gather(-1, label.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        total = total + torch.where(label < 0, 0, chosen)
    found: Tensor = total
    return found
