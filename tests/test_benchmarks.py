"""The benchmarks run and compare what is the same: the yardstick agrees with the library. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.parts import LoopedMLP  # noqa: E402
from benchmarks.precision import errors  # noqa: E402
from benchmarks.yardstick import Yardstick  # noqa: E402

from tn_compvae import CompVAE, PartsMLP  # noqa: E402
from tn_priors import TRIP  # noqa: E402


@pytest.fixture
def pair() -> tuple[TRIP, Yardstick]:
    """A prior with labels, and the yardstick with its parameters."""
    torch.manual_seed(0)
    prior = TRIP(6, 4, 3, labels=[3, 2], deviation=0.7).double()
    return prior, Yardstick(prior)


def test_the_yardstick_has_the_same_density_and_gradients(pair: tuple[TRIP, Yardstick]) -> None:
    prior, yardstick = pair
    z = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0, 1], [2, -1], [-1, 0], [-1, -1], [1, 1]])
    torch.testing.assert_close(yardstick.log_prob(z), prior().log_prob(z))
    torch.testing.assert_close(yardstick.log_prob(z, y), prior.log_prob_joint(z, y))
    for one, other in (
        (yardstick.log_prob(z), prior().log_prob(z)),
        (yardstick.log_prob(z, y), prior.log_prob_joint(z, y)),
    ):
        torch.testing.assert_close(torch.autograd.grad(one.sum(), z)[0], torch.autograd.grad(other.sum(), z)[0])


def test_the_yardstick_imputes_the_same(pair: tuple[TRIP, Yardstick]) -> None:
    prior, yardstick = pair
    z = torch.randn(5, 6, dtype=torch.float64)
    for one, other in zip(yardstick.label_posteriors(z), prior.label_posteriors(z), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("labels", [None, [2, 0]])
def test_the_yardstick_draws_from_the_same(pair: tuple[TRIP, Yardstick], labels: list[int] | None) -> None:
    """Means within five standard errors: one false alarm in 10^5 runs of this fixed seed."""
    prior, yardstick = pair
    count = 20_000
    y = None if labels is None else torch.tensor(labels).expand(count, 2)
    p = prior() if labels is None else prior(torch.tensor(labels))
    with torch.no_grad():
        z = yardstick.sample(count, y)
        error = (z.mean(0) - p.mean) / (p.variance / count).sqrt()
    assert (error.abs() < 5).all()


def test_the_command_writes_what_it_measures(tmp_path: Path) -> None:
    sizes = [
        "--ranks",
        "[1,5]",
        "--n",
        "6",
        "--batch",
        "4",
        "--lengths",
        "[3]",
        "--batches",
        "[2]",
        "--components",
        "[3]",
    ]
    options = [*sizes, "--tables", "[ranks,growth]", "--seconds", "0.01", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "chain", *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["about"]["torch"] == torch.__version__
    compared = [row for row in found["ranks"] if "times faster than the yardstick" in row]
    assert {row["rank"] for row in compared} == {1, 5}
    assert {row["operation"] for row in compared} >= {"log density + backward", "sample given labels", "imputation"}
    assert all(row["ms"] > 0 for row in compared)
    assert all(row["peak MB"] > 0 for row in compared)
    assert {row["n"] for row in found["growth"]} == {3, 6}
    assert {row["components"] for row in found["growth"]} == {3, 10}


def test_every_plan_is_timed_and_one_is_chosen(tmp_path: Path) -> None:
    sizes = ["--lengths", "[3,9]", "--ranks", "[2]", "--batches", "[4]", "--seconds", "0.01"]
    command = [sys.executable, "-m", "benchmarks", "plans", *sizes, "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["plans"]
    assert len(found) == 2 * (3 + 4)
    assert all(row["log Z, ms"] > 0 and row["log Z + backward, ms"] > 0 for row in found)
    for n in (3, 9):
        for boundary in ("ring", "train"):
            assert sum(row["chosen"] for row in found if (row["n"], row["boundary"]) == (n, boundary)) == 1


def test_an_unknown_table_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "chain", "--tables", "[rank]"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "tables are ranks, growth, long, training, gan; not rank" in done.stderr


def test_the_fewer_bits_the_larger_the_error() -> None:
    """float32's error is also that of the emulation without rounding: a few units in the last place of 100 nats."""
    found = {row["format"]: row["largest"] for row in errors(rank=3, n=6, rows=16)}
    assert found["float32"] < 1e-4 < found["TF32"] < found["bfloat16"] < 1


def test_gradients_of_a_gan_are_measured_by_every_estimator(tmp_path: Path) -> None:
    sizes = ["--n", "3", "--rank", "2", "--batches", "2", "--seeds", "1", "--json", str(tmp_path / "found.json")]
    command = [sys.executable, "-m", "benchmarks", "gradients", *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["gradients"]
    assert [row["start"] for row in found] == ["random", "mixture"]
    for row in found:
        assert all(row[name] > 0 for name in ("pathwise", "score-function", "hybrid"))
        assert row["times pathwise"] == row["score-function"] / row["pathwise"]


def test_the_loop_over_parts_has_the_same_bound_and_gradients() -> None:
    x, y = (
        torch.randn(5, 12, dtype=torch.float64),
        torch.tensor([[2, 0, 2], [1, -1, -1], [0, 1, -1], [-1] * 3, [2] * 3]),
    )
    found = []
    for kind in (PartsMLP, LoopedMLP):
        torch.manual_seed(0)
        model = CompVAE(kind((12,), 3, [3] * 3, hidden=8)).double()
        noise = model.noise(x, 3)
        bound = model.elbo(x, y, noise)
        bound.sum().backward()
        found.append((bound.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)
