"""``tn refit``: ex-post density estimation with any model and any prior that can be fitted, by the command."""

from pathlib import Path

import pytest
import torch
from conftest import Tn, contents

from tn_core.plugins import default_host
from tn_core.protocols import to_float
from tn_core.storage import load_model
from tn_eval.datasets import Digits

SMALL = ("--data", "digits", "--data.train_size", "500", "--features", "4", "--epochs", "3")


@pytest.mark.parametrize("model", [("VAE", "--model.prior", "StandardNormal"), ("RAE",), ("ShapedAE",), ("HVAE",)])
@pytest.mark.parametrize("prior", ["TRIP", "FullGaussianMixture"])
def test_a_fitted_prior_lies_where_the_latents_are(tn: Tn, tmp_path: Path, model: tuple[str, ...], prior: str) -> None:
    run, out = tmp_path / "run", tmp_path / "again"
    assert tn("fit", "--model", *model, *SMALL, "--out", run).returncode == 0
    before = contents(run)
    done = tn("refit", run, "--prior", prior, "--out", out)
    if model == ("HVAE",):
        assert done.returncode == 1
        assert "tn: error: HVAE has no prior that can be exchanged" in done.stderr
        assert not out.exists()
        return
    assert done.returncode == 0, done.stderr
    assert contents(run) == before
    old, new = (load_model(folder, default_host())[0] for folder in (run, out))
    x = to_float(Digits(train_size=500).split("train").x)
    with torch.no_grad():
        torch.testing.assert_close(old.encode(x), new.encode(x))
        torch.manual_seed(0)
        z = old.latents(x)
        # where the latents are: they were drawn anew, so within what 500 of them leave open
        error = z.std(0) * (2 / len(z)) ** 0.5
        assert ((new.prior().mean - z.mean(0)).abs() < 5 * error).all()
        assert ((new.prior().variance.sqrt() / z.std(0)).log().abs() < 0.2).all()
    assert tn("sample", out).returncode == 0


def test_labels_are_fitted_too(tn: Tn, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "again"
    assert tn("fit", "--model.prior", "StandardNormal", *SMALL, "--out", run).returncode == 0
    assert tn("refit", run, "--prior", "TRIP", "--prior.rank", "8", "--out", out).returncode == 0
    assert tn("sample", out, "--labels", "digit=3").returncode == 0
    done = tn("evaluate", out, "--metrics", "imputation")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--prior", "StandardNormal"), "StandardNormal cannot be fitted: it has no method fit"),
        (("--prior", "Nothing"), "Nothing"),
        (("--prior.rank", "0"), "rank"),
    ],
)
def test_what_cannot_be_done(tn: Tn, trained: Path, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    done = tn("refit", trained, *more, "--out", tmp_path / "out")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert tn("refit", trained, "--out", trained).returncode == 1
