"""FID and KID on features whose distances are known, in float64, and their intervals against repeated draws."""

import math

import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from tn_eval.distances import covered, frechet_distance, kernel_distance


def normal(items: int, features: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(items, features, generator=generator, dtype=torch.float64)


def exact(items: int, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Features whose sample mean and sample covariance are just these."""
    x = normal(items, len(mean), torch.Generator().manual_seed(items))
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


# FID


def test_frechet_distance_of_commuting_covariances():
    """Where A and B are diagonal it is |m - n|^2 + sum (sqrt a - sqrt b)^2."""
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 0.25]).double()
    m, n = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([0.5, 1.0, 3.0]).double()
    value, _ = frechet_distance(exact(50, m, a.diag()), exact(80, n, b.diag()))
    assert value == pytest.approx(float((m - n).square().sum() + (a.sqrt() - b.sqrt()).square().sum()), rel=1e-12)


def test_frechet_distance_of_any_covariances(generator):
    """The matrix root taken by scipy."""
    x, y = normal(60, 7, generator) @ normal(7, 7, generator), normal(90, 7, generator) @ normal(7, 7, generator) + 1
    a, b = x.T.cov(), y.T.cov()
    root = torch.from_numpy(scipy.linalg.sqrtm((a @ b).numpy()).real)
    expected = (x.mean(0) - y.mean(0)).square().sum() + (a + b - 2 * root).trace()
    assert frechet_distance(x, y)[0] == pytest.approx(float(expected), rel=1e-10)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-10), "symmetric"


@pytest.mark.parametrize("items", [200, 5], ids=["full rank", "of lower rank"])
def test_frechet_distance_grows_with_the_square_of_a_shift(generator, items):
    x = normal(items, 10, generator)
    direction = nn.functional.normalize(normal(1, 10, generator))
    # the root of a singular product is exact to the root of the precision only
    for shift in (0.0, 0.5, 1.0, 2.0):
        value, interval = frechet_distance(x + shift * direction, x)
        assert value == pytest.approx(shift**2, rel=1e-9, abs=1e-10 if items > 10 else 1e-6)
        assert math.isfinite(interval)
    assert frechet_distance(x, x)[0] >= 0


def test_frechet_distance_of_float32_is_that_of_float64(generator):
    """Images whose features are far from zero: in float32 nothing would be left of these covariances."""
    x, y = (1e-2 * normal(300, 4, generator)).float() + 100, (2e-2 * normal(300, 4, generator)).float() + 100
    expected = frechet_distance(x.double() - 100, y.double() - 100)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shift", [0.3, 1.0])
def test_intervals_are_1_96_standard_deviations(distance, shift):
    """Over 400 draws, whose deviation has a standard error of 3.5 %, below 5 % with these tails; allowed are 25 %."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(400):
        x = normal(500, 3, generator) * torch.tensor([1.0, 2.0, 0.5]) + shift
        y = normal(300, 3, generator)
        found.append(distance(x, y))
    values, intervals = torch.tensor(found, dtype=torch.float64).unbind(1)
    assert intervals.mean() / 1.96 == pytest.approx(float(values.std()), rel=0.25)


# KID


def test_kernel_distance_is_the_sum_over_pairs(generator):
    x, y = normal(6, 3, generator), normal(4, 3, generator) + 1

    def kernel(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within = [
        sum(kernel(own[i], own[j]) for i in range(len(own)) for j in range(len(own)) if i != j)
        / (len(own) * (len(own) - 1))
        for own in (x, y)
    ]
    across = sum(kernel(a, b) for a in x for b in y) / 24
    assert kernel_distance(x, y)[0] == pytest.approx(sum(within) - 2 * across, rel=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_kernel_distance_is_that_of_torchmetrics(generator):
    """With one subset that is the whole set; more rows than are taken at a time."""
    x, y = normal(1200, 5, generator), 1.2 * normal(1200, 5, generator)
    metric = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=1200)
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert kernel_distance(x, y)[0] == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def test_kernel_distance_of_equal_distributions_is_zero_on_average():
    """A z-test on 400 draws, and the share of intervals that hold 0; each wrongly rejects less than once in 10^6."""
    generator = torch.Generator().manual_seed(1)
    found = [kernel_distance(normal(60, 4, generator), normal(40, 4, generator)) for _ in range(400)]
    values, intervals = torch.tensor(found, dtype=torch.float64).unbind(1)
    assert abs(values.mean()) < 5 * values.std() / math.sqrt(400)
    assert (values < 0).any(), "unbiased: some must be below"
    assert (values.abs() <= intervals).double().mean() > 0.95 - 5 * math.sqrt(0.05 * 0.95 / 400)


def test_kernel_distance_grows_with_a_shift(generator):
    x, y = normal(500, 4, generator), normal(500, 4, generator)
    values = [kernel_distance(x + shift, y)[0] for shift in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    assert values[1] > kernel_distance(x + 0.5, y)[1], "seen at once"


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("samples", "reference", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), "at least two samples are needed, got 1"),
        (torch.zeros(5, 3), torch.zeros(1, 3), "at least two held-out items are needed, got 1"),
        (torch.zeros(5, 3), torch.zeros(5, 4), r"got \(5, 3\) and \(5, 4\)"),
        (torch.zeros(5), torch.zeros(5), "same number of features"),
        (torch.full((5, 3), math.nan), torch.zeros(5, 3), "of the samples are not finite"),
        (torch.zeros(5, 3), torch.full((5, 3), math.inf), "of the held-out items are not finite"),
    ],
)
def test_bad_features(distance, samples, reference, message):
    with pytest.raises(ValueError, match=message):
        distance(samples, reference)


# precision and recall


def test_cover_by_hand():
    by = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    # distances to the second nearest of the others: 3, 2, 3, 9
    points = torch.tensor([[-2.9], [-3.1], [5.9], [0.5], [18.9], [19.1], [6.1]])
    assert covered(points, by, 2).tolist() == [True, False, True, True, True, False, True]
    # to the nearest: 1, 1, 2, 7
    assert covered(torch.tensor([[2.5], [-1.5], [5.5], [2.05]]), by, 1).tolist() == [True, False, True, True]


def test_equal_sets_cover_one_another_and_far_ones_do_not(generator):
    x = normal(2500, 8, generator)
    assert covered(x, x).all()
    assert not covered(x + 100, x).any()
    # a lost half is not recalled, and what is left is precise
    left = x[x[:, 0] > 0]
    again = normal(2500, 8, generator)
    assert covered(left, again).double().mean() > 0.8
    assert covered(again[again[:, 0] < -1], left).double().mean() < 0.4


def test_cover_needs_more_items_than_neighbours():
    with pytest.raises(ValueError, match="more items than that, got 3"):
        covered(torch.zeros(2, 1), torch.zeros(3, 1))
