"""Pictures of real models by the command line, and walks through a real tensor ring."""

from pathlib import Path

import pytest
import torch
from conftest import Tn, contents
from PIL import Image

from tn_eval.views import mode_hops
from tn_priors import TRIP, TTLP

COUNT = 20_000


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far two sets of samples are apart at the worst of 16 random frequencies, in standard errors.

    Of equal distributions it exceeds 5 with a probability below 1e-5.
    """
    frequencies = torch.randn(one.shape[1], 16, dtype=one.dtype, generator=torch.Generator().manual_seed(1))
    waves = [torch.cos(z @ frequencies + torch.pi / 4) for z in (one, other)]  # sine and cosine at once
    error = sum((wave.var(0) / len(wave) for wave in waves), torch.zeros(16)).sqrt()
    return float(((waves[0].mean(0) - waves[1].mean(0)).abs() / error).max())


@pytest.mark.parametrize("kind", [TRIP, TTLP])
@pytest.mark.parametrize("known", [None, [3], [1, 2]], ids=["free", "label", "set"])
def test_a_walk_leaves_a_tensor_prior_as_it_is(kind: type[TRIP], known: list[int] | None) -> None:
    torch.manual_seed(0)
    prior = kind(features=4, components=4, rank=5, labels=[5], mean_range=3.0, deviation=0.5).double()
    mask = torch.zeros(5, dtype=torch.bool)
    mask[known or []] = True
    p = prior() if known is None else prior([mask])
    with torch.no_grad():
        z = mode_hops(p, steps=4, count=COUNT, dimensions=2)
        fresh = p.sample((COUNT,))
    assert all(apart(state, fresh) < 5 for state in z)
    # the test would see it if dimensions were drawn regardless of the others
    mixed = torch.stack([column[torch.randperm(COUNT)] for column in fresh.T], 1)
    assert apart(mixed, fresh) > 8


def test_pictures_of_a_trained_model(tn: Tn, run: Path) -> None:
    before = contents(run)
    for arguments, file in (
        (("hop", run, "--dimensions", "2", "--labels", "digit=!3|5", "--count", "3", "--steps", "4"), "hops.png"),
        (("density", run, "--dims", "3,1", "--labels", "digit=3"), "density.png"),
    ):
        done = tn(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[1] == str(run / file)
        with Image.open(run / file) as picture:
            assert picture.format == "PNG"
            size = picture.size
        if file == "hops.png":
            assert size == (4 * 34 + 2, 3 * 34 + 2)
    after = contents(run)
    assert after.keys() - before.keys() == {"hops.png", "density.png"}
    assert all(after[name] == content for name, content in before.items())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hop"], "dimensions must be from 1 to 4, the number of latents; got 5"),
        (["hop", "--labels", "digit=12"], "no value '12'"),
        (["hop", "--out", "nowhere/x.png"], "nowhere"),
        (["hop", "--step", "3"], "did you mean --steps"),
        (["density", "--dims", "0,4"], "dims must be from 0 to 3"),
        (["density", "--dims", "0"], "dims must be two different latents"),
        (["density", "--data_root", "nowhere", "--points", "many"], "points"),
        (["histogram"], "of shape (1,) or (2,), numbers or points; these have shape (1, 8, 8)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(tn: Tn, run: Path, arguments: list[str], says: str) -> None:
    before = contents(run)
    done = tn(arguments[0], run, *arguments[1:], cwd=run)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("tn: error: ")
    assert says in line
    assert contents(run) == before


def test_numbers_from_two_gaussians(tn: Tn, tmp_path: Path) -> None:
    """They train a model, and the model is compared with them."""
    network = ("--model.network", "MLP", "--model.network.hidden", "[8]", "--model.likelihood", "gaussian")
    data = ("--data", "two-gaussians", "--data.train_size", "500", "--data.missing", "0.5")
    options = ("--features", "2", "--model.prior.rank", "3", "--epochs", "1", "--out", tmp_path / "run")
    done = tn("fit", *network, *data, *options)
    assert done.returncode == 0, done.stderr
    for command in ("histogram", "density"):
        done = tn(command, tmp_path / "run")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "run" / f"{command}.png").read_bytes().startswith(b"\x89PNG")


def test_a_prior_without_exact_marginals(tn: Tn, tmp_path: Path) -> None:
    common = ("--data", "digits", "--data.train_size", "200", "--features", "4", "--epochs", "1")
    done = tn("fit", *common, "--model.prior", "GaussianMixture", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    done = tn("density", tmp_path / "run", "--samples", "5000")
    assert done.returncode == 0, done.stderr
    assert "(histogram of 5,000 samples)" in done.stdout


def test_walks_of_a_gan(tn: Tn, tmp_path: Path) -> None:
    """Figure 5 of the TRIP paper is of a GAN. It does not learn from labels, and says so."""
    common = ("--data", "digits", "--data.train_size", "200", "--features", "6", "--model.prior.rank", "3")
    done = tn("fit", "--model", "GAN", *common, "--epochs", "1", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert tn("hop", tmp_path / "run").returncode == 0
    assert (tmp_path / "run" / "hops.png").exists()
    done = tn("hop", tmp_path / "run", "--labels", "digit=3")
    assert done.returncode == 1
    assert "does not learn from labels" in done.stderr
