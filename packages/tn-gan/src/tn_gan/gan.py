r"""Generative adversarial networks with any prior, which may be learned with the generator.

    min over G, psi  max over D:   E_p(x) log D(x) + E_p_psi(z) log(1 - D(G(z)))

which is TRIP equation 9, and its descendants: what the two players minimise is one of ``OBJECTIVES``.

The prior's parameters psi are learned by one of three estimators of the generator's gradient. The paper's is the score
function (REINFORCE, equation 10), from the discriminator's value alone:

    1/l sum_i  grad log p_psi(z_i) (d_i - 1/l sum_j d_j)

Another is pathwise: samples of the prior are differentiable in psi, so the gradient that reaches z through the
generator goes on to psi. The third takes of both what is less noisy where a prior's Gaussians lie apart: paths to their
means and deviations, the score of how often each is chosen.

References:
    Goodfellow et al., Generative Adversarial Nets, 2014, https://arxiv.org/abs/1406.2661
    Arjovsky et al., Wasserstein GAN, 2017, https://arxiv.org/abs/1701.07875
    Gulrajani et al., Improved Training of Wasserstein GANs, 2017, https://arxiv.org/abs/1704.00028
    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, https://arxiv.org/abs/1706.08500
    Miyato et al., Spectral Normalization for GANs, 2018, https://arxiv.org/abs/1802.05957
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, section 3.2 and appendix C
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_core.errors import UserError

__all__ = ["GAN", "OBJECTIVES", "Costs", "Estimator", "Objective", "ObjectiveName", "Part"]

ObjectiveName = Literal["non-saturating", "minimax", "wgan", "wgan-gp", "sn-gan"]
Estimator = Literal["pathwise", "score-function", "hybrid"]
Part = Literal["real", "fake", "generator"]

Costs = Callable[[Tensor], Tensor]


class Objective(NamedTuple):
    """What the players minimise, each an average of costs (batch,) of the discriminator's scores (batch,).

    Attributes:
        real: the discriminator's cost of data.
        fake: the discriminator's cost of samples.
        generator: the generator's cost of samples.
    """

    real: Costs
    fake: Costs
    generator: Costs


# with D = sigmoid(score), -log D = softplus(-score) and -log(1 - D) = softplus(score), in nats
_EQUATION_9 = Objective(
    real=lambda score: functional.softplus(-score),
    fake=functional.softplus,
    generator=lambda score: -functional.softplus(score),
)
_WASSERSTEIN = Objective(real=torch.neg, fake=lambda score: score, generator=torch.neg)

OBJECTIVES: Mapping[ObjectiveName, Objective] = {
    "minimax": _EQUATION_9,
    "non-saturating": _EQUATION_9._replace(generator=lambda score: functional.softplus(-score)),
    "wgan": _WASSERSTEIN,
    "wgan-gp": _WASSERSTEIN,
    "sn-gan": Objective(
        real=lambda score: functional.relu(1 - score),
        fake=lambda score: functional.relu(1 + score),
        generator=torch.neg,
    ),
}
"""By name."""


class GAN(LightningModule):
    """Generative adversarial network with any prior.

    Data are in [0, 1]. Losses are averages over the batch. Labels in a batch are not looked at: a prior that has labels
    is used with all of them unknown (:class:`tn_gan.ConditionalGAN` learns them).

    A batch is one step of the discriminator and, every ``discriminator_steps`` batches, one of the generator together
    with the prior. Optimisation is manual, and Lightning counts ``global_step`` (and ``max_steps``) once an optimiser
    step: by default a batch adds two. The count also says whose turn it is, so that a resumed run takes the turn that
    an uninterrupted one would.

    The start of the prior is an argument of the prior: the paper has means in [-1, 1] for GANs and deviations of 1 over
    their number, that is ``mean_range=1, deviation=0.1`` for ten.

    Arguments:
        network: a pair of a discriminator, ``encoder``, with one output, and a generator, ``decoder``.
        prior: a module whose call returns a distribution over latents. Where the estimator cannot learn it, because the
            distribution has no ``rsample`` or no density, it stays as it is.
        objective: what the players minimise. "non-saturating": -E log D(G(z)) for the generator; "minimax": equation 9
            itself; "wgan": scores of a critic whose weights are clipped; "wgan-gp": of one with a gradient penalty;
            "sn-gan": hinge losses, and every layer of the discriminator divided by its largest singular value.
        estimator: of the gradient of the prior's parameters: "pathwise"; "score-function", equation 10; or "hybrid":
            of a mixture of Gaussians pathwise to means and deviations and by the score function to the rest, of other
            priors pathwise.
        clip: "wgan" keeps the discriminator's parameters within minus and plus this.
        penalty: the weight of the gradient penalty of "wgan-gp".
        discriminator_steps: steps of the discriminator to one of the generator (the paper: 4).
        learning_rate: of generator and discriminator (Adam; the paper: 1e-4).
        discriminator_learning_rate: of the discriminator, if it is to have its own (two time-scales).
        prior_learning_rate: of the prior. The higher, the more precise are samples, and the less varied.
        betas: Adam's decay rates (the default is DCGAN's; Gulrajani et al. have 0 and 0.9 for "wgan-gp").
        averaging: if above 0, at the end of training generator and prior become an exponential moving average of what
            they were, of this decay rate a step.
        gradient_batches: if above 0, so many gradients of the prior are drawn by each estimator at the end of every
            epoch, and their variances logged.

    Raises:
        ValueError: if a number is out of its range or the network is no such pair.
    """

    has_labels = False

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "GANConv")],
        prior: Annotated[LazyDistribution, Component("priors", "TRIP")],
        objective: ObjectiveName = "non-saturating",
        estimator: Estimator = "hybrid",
        clip: float = 0.01,
        penalty: float = 10.0,
        discriminator_steps: int = 1,
        learning_rate: float = 1e-3,
        discriminator_learning_rate: float | None = None,
        prior_learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        averaging: float = 0.0,
        gradient_batches: int = 0,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}; got {objective!r}")
        if estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {', '.join(get_args(Estimator))}; got {estimator!r}")
        if discriminator_steps < 1:
            raise ValueError(f"discriminator_steps must be at least 1, got {discriminator_steps}")
        if discriminator_learning_rate is None:
            discriminator_learning_rate = learning_rate
        positive = {
            "clip": clip,
            "learning_rate": learning_rate,
            "discriminator_learning_rate": discriminator_learning_rate,
            "prior_learning_rate": prior_learning_rate,
        }
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not penalty >= 0:
            raise ValueError(f"penalty must be at least 0, got {penalty}")
        if not 0 <= averaging < 1:
            raise ValueError(f"averaging must be at least 0 and less than 1, got {averaging}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers, at least 0 and less than 1, got {list(betas)}")
        if gradient_batches < 0 or gradient_batches == 1:
            raise ValueError(f"gradient_batches must be 0, or at least 2, got {gradient_batches}")
        for name in ("encoder", "decoder"):
            if not isinstance(getattr(network, name, None), nn.Module):
                raise ValueError(f"{type(network).__name__} has no {name}: the network must be a pair of both")
        self.automatic_optimization = False
        self.network: Any = network  # to mypy, a module's submodule may be a tensor
        self.prior = prior
        self.objective, self.estimator = objective, estimator
        self.clip, self.penalty, self.discriminator_steps = clip, penalty, discriminator_steps
        self.learning_rate, self.discriminator_learning_rate = learning_rate, discriminator_learning_rate
        self.prior_learning_rate, self.averaging = prior_learning_rate, averaging
        self.betas = (betas[0], betas[1])
        self.gradient_batches = gradient_batches
        if objective == "sn-gan":
            self._normalize_spectra()
        if averaging:
            self.average = copy.deepcopy(self._drawing()).requires_grad_(False)

    def _normalize_spectra(self) -> None:
        for layer in list(self.network.encoder.modules()):
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
                spectral_norm(layer)

    def _drawing(self) -> nn.ModuleList:
        """All that samples are drawn by."""
        return nn.ModuleList([self.network.decoder, self.prior])

    # the two players: G(z) and D(x)

    @torch.no_grad()
    def latents(self, count: int, y: Any = None) -> Tensor:
        """Draws z from the prior, (count, features).

        Arguments:
            count: how many.
            y: what the prior is given, for all or for each; None: nothing.
        """
        p = self._given(y)
        z: Tensor = p.sample(_shape(p, count))
        return z

    def _given(self, y: Any) -> Distribution:
        p: Distribution = self.prior() if y is None else self.prior(y)
        return p

    def _paths(self, count: int, y: Any) -> tuple[Tensor, Tensor | None]:
        """Draws z, (count, features), with the paths that the estimator has, and log densities (count,) to score."""
        p: Any = self._given(y)
        shape = _shape(p, count)
        if not (self._learnable() and self._learns(p)):
            return p.sample(shape), None
        if self.estimator == "score-function":
            z = p.sample(shape)
            return z, p.log_prob(z)
        if self.estimator == "hybrid" and hasattr(p, "rsample_with_score"):
            drawn: tuple[Tensor, Tensor] = p.rsample_with_score(shape)
            return drawn
        return p.rsample(shape), None

    def generate(self, z: Tensor) -> Tensor:
        """G(z): data in [0, 1], (batch, *shape), from latents (batch, features)."""
        x: Tensor = torch.sigmoid(self.network.decoder(z))
        return x

    def discriminate(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The discriminator's score of each item, (batch,): of a GAN the logit of D(x), the probability that x is real.

        Arguments:
            x: (batch, *shape).
            y: labels (batch, labels), for models that look at them.

        Raises:
            UserError: if the discriminator does not give one number an item.
        """
        return self._scores(x, 1).squeeze(1)

    def _scores(self, x: Tensor, outputs: int) -> Tensor:
        found: Tensor = self.network.encoder(x)
        if found.shape != (len(x), outputs):
            raise UserError(
                f"the discriminator must give {outputs} numbers an item, got the shape {tuple(found.shape)}: build "
                f"{type(self.network).__name__} with outputs={outputs}, or take GANConv"
            )
        return found

    # what they play for

    def costs(self, part: Part, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What each item costs, (batch,): data ("real") and samples ("fake") the discriminator, or the generator."""
        costs: Costs = getattr(OBJECTIVES[self.objective], part)
        return costs(self.discriminate(x, y))

    def latent_costs(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """What each latent (batch, features) costs the generator and the prior, (batch,)."""
        return self.costs("generator", self.generate(z), y)

    def discriminator_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What the discriminator minimises, a scalar, with as many latents as there are data."""
        with torch.no_grad():
            fake = self.generate(self.latents(len(x), y))
        loss = self.costs("real", x, y).mean() + self.costs("fake", fake, y).mean()
        if self.objective == "wgan-gp":
            loss = loss + self.penalty * self.gradient_penalty(x, fake, y)
        return loss

    def gradient_penalty(self, x: Tensor, fake: Tensor, y: Tensor | None = None) -> Tensor:
        """E (|grad D| - 1)^2, a scalar, at random points between data and samples (Gulrajani et al., equation 3)."""
        share = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device, dtype=x.dtype)
        between = torch.lerp(x, fake, share).requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminate(between, y).sum(), between, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    def generator_loss(self, count: int, y: Tensor | None = None) -> Tensor:
        """What the generator and the prior minimise, a scalar, from so many latents."""
        z, log_p = self._paths(count, y)
        cost = self.latent_costs(z, y)
        loss = cost.mean()
        if log_p is not None:
            surrogate = (log_p * (cost - loss).detach()).mean()
            loss = loss + surrogate - surrogate.detach()  # equation 10, and the value of the cost
        return loss

    # training

    def training_step(self, batch: Tensor | tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One step of the discriminator and, in its turn, of the generator, on a batch ``x`` or ``(x, y)``."""
        x, y = (batch, None) if isinstance(batch, Tensor) else batch
        y = y if self.has_labels else None
        players: Any = self.optimizers()
        generator, discriminator = players
        self._step(discriminator, "discriminator_loss", lambda: self.discriminator_loss(x, y))
        if self.objective == "wgan":
            with torch.no_grad():
                for parameter in self.network.encoder.parameters():
                    parameter.clamp_(-self.clip, self.clip)
        # a round is so many steps of the discriminator, then one of the generator
        rounds, done = divmod(self.global_step, self.discriminator_steps + 1)
        if done == self.discriminator_steps:
            self._step(generator, "generator_loss", lambda: self.generator_loss(len(x), y))
            if self.averaging:
                self._update_average(rounds)

    def _step(self, optimizer: Any, name: str, loss_of: Callable[[], Tensor]) -> None:
        self.toggle_optimizer(optimizer)  # the other player's parameters get no gradients
        loss = loss_of()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.log(name, loss.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    @torch.no_grad()
    def _update_average(self, steps: int) -> None:
        """After so many earlier steps; the first ones count for less, so that the average does not keep the start."""
        keep = min(self.averaging, (1 + steps) / (10 + steps))
        for mean, now in zip(self.average.state_dict().values(), self._drawing().state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - keep)
            else:
                mean.copy_(now)

    def on_fit_end(self) -> None:
        """Puts the average in place; a checkpoint of the last epoch, to go on from, has what it is the average of."""
        if self.averaging:
            self._drawing().load_state_dict(self.average.state_dict())

    def gradient_variances(self, batches: int, count: int = 128) -> dict[Estimator, float]:
        """How noisy each estimator is: the variance of the prior's gradient, summed over its parameters.

        Measured in evaluation mode, so that nothing is changed by it.

        Arguments:
            batches: gradients to draw, at least 2.
            count: latents that each is estimated from.

        Returns:
            The variance, for each estimator that can learn this prior.
        """
        training, estimator = self.training, self.estimator
        self.eval()
        found: dict[Estimator, float] = {}
        for self.estimator in get_args(Estimator):
            if not (learned := self._learned()):
                continue
            total = squares = torch.zeros((), dtype=torch.float64)
            for _ in range(batches):
                parts = torch.autograd.grad(self.generator_loss(count), learned, allow_unused=True)
                gradient = torch.cat([part.flatten() for part in parts if part is not None]).double()
                total, squares = total + gradient, squares + gradient.square()
            found[self.estimator] = float((squares - total.square() / batches).sum() / (batches - 1))
        self.train(training)
        self.estimator = estimator
        return found

    def on_train_epoch_end(self) -> None:
        """Logs all estimators' variances, if asked to."""
        if self.gradient_batches:
            with torch.enable_grad():
                found = self.gradient_variances(self.gradient_batches)
            self.log_dict({f"gradient_variance_{name}": value for name, value in found.items()}, sync_dist=True)

    def _learnable(self) -> list[nn.Parameter]:
        return [p for p in self.prior.parameters() if p.requires_grad]

    def _learns(self, p: Distribution) -> bool:
        """Whether the estimator has gradients of what such a distribution is made of."""
        if self.estimator == "score-function":
            return type(p).log_prob is not Distribution.log_prob
        return p.has_rsample

    def _learned(self) -> list[nn.Parameter]:
        """The prior's parameters that the estimator has gradients of."""
        learnable = self._learnable()
        return learnable if learnable and self._learns(self.prior()) else []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator, with a learning rate of its own for the prior, and Adam for the discriminator."""
        generator: list[dict[str, Any]] = [{"params": self.network.decoder.parameters(), "lr": self.learning_rate}]
        if learned := self._learned():
            generator.append({"params": learned, "lr": self.prior_learning_rate})
        elif self._learnable():
            warnings.warn(
                f"the prior {type(self.prior).__name__} is not learned: the estimator score-function needs its density "
                f"(log_prob), the others gradients of its samples (rsample); got {self.estimator}",
                stacklevel=2,
            )
        return [
            torch.optim.Adam(generator, betas=self.betas),
            torch.optim.Adam(self.network.encoder.parameters(), lr=self.discriminator_learning_rate, betas=self.betas),
        ]

    # use

    @torch.no_grad()
    def sample(self, count: int, y: Any = None) -> Tensor:
        """Draws (count, *shape) in [0, 1] from the prior given what is known of the labels.

        Arguments:
            count: how many.
            y: None; or, of a model that learns from labels, what the prior takes, for one item (labels,) or for each
                (count, labels), -1 unknown.

        Raises:
            ValueError: if the count is below 1, or labels are given that do not fit, or to a model without labels.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if y is not None and not self.has_labels:
            raise ValueError("GAN does not learn from labels, so it cannot draw samples with given labels: leave y out")
        return self.generate(self.latents(count, y))


def _shape(p: Distribution, count: int) -> torch.Size:
    """What to ask a distribution for, which may be one for each of them."""
    return torch.Size() if p.batch_shape else torch.Size([count])
