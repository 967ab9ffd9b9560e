r"""The conformance suite for priors: inherit it in your tests, say how to make a small prior, and run pytest.

    from tn_priors.testing import PriorSuite

    class TestMine(PriorSuite):
        def make(self):
            return MyPrior(features=3)

``LabelledPriorSuite`` adds the laws of priors over latents and labels. Both need pytest.

Statistical laws compare independent averages and allow five standard errors, that is a false alarm in less than one of
10^5 comparisons (see :mod:`tn_priors.comparisons`). Seeds are fixed, so a law that holds once holds always.
"""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import Distribution
from zuko.lazy import LazyDistribution

from tn_priors.comparisons import (
    close_on_average,
    estimators_agree,
    integrates_to_one,
    samples_follow_density,
    trainable,
)

__all__ = ["DEVICES", "LabelledPriorSuite", "PriorSuite"]

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
"""The devices that priors are moved to: those there are."""


class PriorSuite:
    """The laws of a prior p(z).

    Attributes:
        seed: of the parameters and of every draw.
        samples: the number of samples of the statistical laws.
    """

    seed: int = 0
    samples: int = 20_000

    def make(self) -> LazyDistribution:
        """Returns a new prior over few latents, 1 to 4: the laws integrate over them. ``.double()`` must work on it."""
        raise NotImplementedError

    def oracle(self, prior: LazyDistribution, z: Tensor) -> Tensor | None:
        """Returns the log density (samples,) of z (samples, features) by other means, or None if there are none."""
        return None

    def log_likelihood(self, prior: LazyDistribution, z: Tensor) -> Tensor:
        """Returns a number that every parameter has a part in, through the density of z (samples, features)."""
        total: Tensor = prior().log_prob(z).sum()
        return total

    def build(self, seed: int | None = None) -> LazyDistribution:
        """A prior in float64, and the random state after it, both fixed by a seed."""
        torch.manual_seed(self.seed if seed is None else seed)
        return self.make().double()

    def test_call_returns_a_distribution_over_one_vector(self) -> None:
        p = self.build()()
        assert isinstance(p, Distribution)
        assert p.batch_shape == ()
        assert len(p.event_shape) == 1
        assert p.event_shape[0] >= 1

    @pytest.mark.parametrize("shape", [(), (5,), (3, 5)], ids=str)
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        p = self.build()()
        z = p.sample(shape)
        assert z.shape == shape + p.event_shape
        assert p.log_prob(z).shape == shape

    def test_log_prob_takes_every_row_by_itself(self) -> None:
        p = self.build()()
        z = p.sample((2, 3))
        rows = torch.stack([p.log_prob(row) for row in z.flatten(0, 1)]).reshape(2, 3)
        torch.testing.assert_close(p.log_prob(z), rows)

    def test_float64_stays_float64(self) -> None:
        p = self.build()()
        z = p.sample((2,))
        assert z.dtype == torch.float64
        assert p.log_prob(z).dtype == torch.float64

    def test_float32_agrees_with_float64(self) -> None:
        prior = self.build()
        z = prior().sample((20,)).float()
        exact = prior()
        expected = exact.log_prob(z.double())
        found = copy.deepcopy(prior).float()().log_prob(z)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)

    def test_far_values_have_a_density(self) -> None:
        p = self.build()()
        near = p.log_prob(p.sample())
        for far in (1e3, -1e3):
            # minus infinity is allowed, NaN is less than nothing
            assert bool(p.log_prob(torch.full(p.event_shape, far, dtype=torch.float64)) < near)

    def test_density_agrees_with_the_oracle(self) -> None:
        prior = self.build()
        z = 2 * prior().sample((10,))
        found = prior().log_prob(z)
        expected = self.oracle(prior, z)
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    def test_density_integrates_to_one(self) -> None:
        integrates_to_one(self.build()(), self.samples)

    def test_samples_follow_the_density(self) -> None:
        samples_follow_density(self.build()(), self.samples)

    def test_mean_and_variance_if_offered_are_those_of_samples(self) -> None:
        p = self.build()()
        z = p.sample((self.samples,))
        mean, variance = _offered(p, "mean"), _offered(p, "variance")
        if mean is not None:
            close_on_average(z, mean)
        if mean is not None and variance is not None:
            close_on_average((z - mean) ** 2, variance)

    def test_every_parameter_has_a_finite_gradient(self) -> None:
        prior = self.build()
        z = prior().sample((27,))
        total = self.log_likelihood(prior, z)
        assert total.requires_grad == bool(trainable(prior))
        for name, parameter in trainable(prior):
            (slope,) = torch.autograd.grad(total, parameter, retain_graph=True, allow_unused=True)
            assert slope is not None, name
            assert bool(torch.isfinite(slope).all()), name

    def test_gradients_are_those_of_finite_differences(self) -> None:
        prior = self.build()
        z = prior().sample((27,))
        step = 1e-6
        for name, parameter in trainable(prior):
            (slope,) = torch.autograd.grad(self.log_likelihood(prior, z), parameter)
            direction = torch.randn_like(parameter)
            ends = []
            with torch.no_grad():
                for sign in (1, -1):
                    parameter.add_(sign * step * direction)
                    ends.append(self.log_likelihood(prior, z))
                    parameter.sub_(sign * step * direction)
            found, expected = (slope * direction).sum(), (ends[0] - ends[1]) / (2 * step)
            assert torch.isclose(found, expected, rtol=1e-5, atol=1e-5), f"{name}: {found} is not {expected}"
        value = z[:5].clone().requires_grad_()
        assert torch.autograd.gradcheck(prior().log_prob, value, eps=1e-6, atol=1e-5)

    def test_reparameterised_samples_follow_the_parameters(self) -> None:
        """Pathwise gradients of E f(z) agree with the score function's, for a smooth f, on every parameter."""
        prior = self.build()
        if not prior().has_rsample:
            with pytest.raises(NotImplementedError):
                prior().rsample()
            return
        names = [name for name, _ in trainable(prior)]
        assert prior().rsample((2,)).requires_grad == bool(names)
        if names:
            estimators_agree(prior, prior(), self.samples)

    def test_state_dict_makes_another_prior_the_same(self, tmp_path: Path) -> None:
        first, second = self.build(), self.build(self.seed + 1)
        z = first().sample((10,))
        save_file({name: value.clone() for name, value in first.state_dict().items()}, tmp_path / "prior.safetensors")
        second.load_state_dict(load_file(tmp_path / "prior.safetensors"))
        assert torch.equal(first().log_prob(z), second().log_prob(z))

    def test_deepcopy_is_the_same_and_separate(self) -> None:
        prior = self.build()
        z = prior().sample((10,))
        expected = prior().log_prob(z).detach()
        copied = copy.deepcopy(prior)
        assert torch.equal(copied().log_prob(z), expected)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter += 1
        assert torch.equal(prior().log_prob(z), expected)

    @pytest.mark.parametrize("device", DEVICES)
    def test_moves_to_a_device(self, device: str) -> None:
        prior = self.build()
        z = prior().sample((10,))
        expected = prior().log_prob(z)
        prior.to(device)
        torch.testing.assert_close(prior().log_prob(z.to(device)).cpu(), expected)
        assert prior().sample().device.type == device

    def test_repr_names_the_class(self) -> None:
        prior = self.build()
        assert type(prior).__name__ in repr(prior)
        assert repr(prior())

    def test_inputs_and_parameters_are_not_changed(self) -> None:
        prior = self.build()
        z = prior().sample((10,))
        value, state = z.clone(), {name: x.clone() for name, x in prior.state_dict().items()}
        prior().log_prob(value)
        prior().sample((3,))
        assert torch.equal(value, z)
        assert all(torch.equal(x, state[name]) for name, x in prior.state_dict().items())


class LabelledPriorSuite(PriorSuite):
    """The laws of a prior over latents and labels, p(z, y), on top of those of p(z).

    ``prior.labels`` says what the labels are: ``Categorical``, ``Continuous`` or the number of values. ``prior(y)`` is
    p(z | known labels); ``log_prob_labels(y)``, ``log_prob_joint(z, y)`` and ``label_posteriors(z, y)`` belong to it.
    """

    def log_likelihood(self, prior: Any, z: Tensor) -> Tensor:
        """With labels, each of them unknown in some rows."""
        y = self._known(prior)
        total: Tensor = prior.log_prob_joint(z, y[torch.arange(len(z)) % len(y)]).sum()
        return total

    def label_values(self, label: Any) -> tuple[Tensor, Tensor]:
        """Values of a label and weights with which a sum over them is the sum, or the integral, over the label."""
        size = getattr(label, "size", label)
        if isinstance(size, int):
            return torch.arange(size), torch.ones(size, dtype=torch.float64)
        # the trapezium rule on smooth tails is exact to rounding
        width = (label.high - label.low) / label.components
        grid = torch.linspace(label.low - 12 * width, label.high + 12 * width, 1001, dtype=torch.float64)
        return grid, torch.full_like(grid, float(grid[1] - grid[0]))

    def _unknown(self, prior: Any) -> Tensor:
        marks = [-1.0 if _categorical(label) else torch.nan for label in prior.labels]
        return self._labels(prior, [marks])[0]

    def _labels(self, prior: Any, rows: Any) -> Tensor:
        """Rows of labels, long unless a label is a real number."""
        values = torch.as_tensor(rows, dtype=torch.float64).reshape(-1, len(prior.labels))
        return values.long() if all(map(_categorical, prior.labels)) else values

    def _known(self, prior: Any) -> Tensor:
        """Rows of labels in which each is unknown, low or high, in every combination."""
        unknown = self._unknown(prior).tolist()
        choices = []
        for label, mark in zip(prior.labels, unknown, strict=True):
            values, _ = self.label_values(label)
            low, high = (0, -1) if _categorical(label) else (len(values) * 3 // 7, len(values) * 3 // 5)
            choices.append([mark, values[low].item(), values[high].item()])
        return self._labels(prior, list(itertools.product(*choices)))

    def _every(self, prior: Any) -> tuple[Tensor, Tensor]:
        """All labels (on a grid where they are real), and the weight of each row."""
        values, weights = zip(*(self.label_values(label) for label in prior.labels), strict=True)
        rows = self._labels(prior, torch.cartesian_prod(*(v.double() for v in values)))
        return rows, torch.cartesian_prod(*weights).reshape(len(rows), -1).prod(-1)

    def test_labels_are_the_batch(self) -> None:
        prior = self.build()
        y = self._known(prior)
        q = prior(y)
        d = q.event_shape
        assert q.batch_shape == y.shape[:1]
        assert q.sample((2,)).shape == (2, *y.shape[:1], *d)
        assert q.log_prob(torch.zeros(d, dtype=torch.float64)).shape == y.shape[:1]
        assert q.log_prob(torch.zeros(4, len(y), *d, dtype=torch.float64)).shape == (4, len(y))
        assert prior(y[0]).batch_shape == ()
        assert prior(y.expand(2, *y.shape)).batch_shape == (2, len(y))

    def test_joint_is_conditional_times_labels(self) -> None:
        prior: Any = self.build()
        y = self._known(prior)
        z = prior(y).sample((3,))
        found = prior(y).log_prob(z) + prior.log_prob_labels(y)
        torch.testing.assert_close(found, prior.log_prob_joint(z, y), rtol=1e-10, atol=1e-10)

    def test_labels_sum_to_one(self) -> None:
        prior: Any = self.build()
        y, weights = self._every(prior)
        total = (prior.log_prob_labels(y).exp() * weights).sum()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-8, atol=0)

    def test_latents_are_the_joint_summed_over_labels(self) -> None:
        prior: Any = self.build()
        y, weights = self._every(prior)
        z = prior().sample((3,))
        total = (prior.log_prob_joint(z.unsqueeze(1), y).exp() * weights).sum(-1)
        torch.testing.assert_close(total.log(), prior().log_prob(z), rtol=1e-8, atol=1e-8)

    def test_label_posteriors_are_bayes(self) -> None:
        """p(y_j | z, the other known labels) by enumeration of y_j, whatever y_j itself is said to be."""
        prior: Any = self.build()
        y = self._known(prior)
        z = prior(y).sample()
        found = prior.label_posteriors(z, y)
        assert len(found) == len(prior.labels)
        for j, label in enumerate(prior.labels):
            torch.testing.assert_close(found[j].sum(-1), torch.ones(len(y), dtype=torch.float64))
            if not _categorical(label):
                continue  # its posterior is over components, of which the labels say nothing
            joint = []
            for value in self.label_values(label)[0]:
                row = y.clone()
                row[:, j] = value
                joint.append(prior.log_prob_joint(z, row))
            torch.testing.assert_close(found[j], torch.stack(joint, -1).softmax(-1), rtol=1e-8, atol=1e-10)

    def test_unknown_labels_say_nothing(self) -> None:
        prior: Any = self.build()
        unknown = self._unknown(prior)
        z = prior().sample((5,))
        torch.testing.assert_close(prior(unknown).log_prob(z), prior().log_prob(z), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(prior.log_prob_joint(z), prior().log_prob(z), rtol=1e-10, atol=1e-10)
        nothing = prior.log_prob_labels(unknown)
        torch.testing.assert_close(nothing, torch.zeros_like(nothing), rtol=0, atol=1e-10)

    def test_labels_out_of_range_are_errors(self) -> None:
        prior: Any = self.build()
        for j, label in enumerate(prior.labels):
            for wrong in (len(self.label_values(label)[0]), -2) if _categorical(label) else ():
                y = self._unknown(prior)
                y[j] = wrong
                with pytest.raises(ValueError):
                    prior(y)
        with pytest.raises(ValueError):
            prior(torch.zeros(2, len(prior.labels) + 1, dtype=torch.long))

    @pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
    def test_latents_that_are_no_numbers_are_errors(self, wrong: float) -> None:
        prior: Any = self.build()
        z = prior().sample((2,))
        z[1, 0] = wrong
        with pytest.raises(ValueError):
            prior().log_prob(z)
        with pytest.raises(ValueError):
            prior.log_prob_joint(z, self._unknown(prior))

    def test_conditionals_are_densities_and_sampled_as_such(self) -> None:
        prior: Any = self.build()
        for y in self._known(prior)[-2:]:
            integrates_to_one(prior(y), self.samples)
            samples_follow_density(prior(y), self.samples)

    def test_labels_are_not_changed(self) -> None:
        prior: Any = self.build()
        y = self._known(prior)
        before = y.clone()
        prior.log_prob_joint(prior(y).sample(), y)
        prior.label_posteriors(prior(y).sample(), y)
        assert torch.equal(y.nan_to_num(7.0), before.nan_to_num(7.0))

    @pytest.mark.parametrize("device", DEVICES)
    def test_labels_move_to_a_device(self, device: str) -> None:
        prior: Any = self.build()
        y = self._known(prior)
        z = prior(y).sample()
        expected = prior.log_prob_joint(z, y)
        prior.to(device)
        torch.testing.assert_close(prior.log_prob_joint(z.to(device), y.to(device)).cpu(), expected)


def _offered(p: Distribution, name: str) -> Tensor | None:
    """A moment, or None where the distribution does not know it."""
    try:
        value = getattr(p, name)
    except NotImplementedError:
        return None
    assert isinstance(value, Tensor)
    assert value.shape == p.event_shape
    return value.detach()


def _categorical(label: Any) -> bool:
    return isinstance(getattr(label, "size", label), int)
