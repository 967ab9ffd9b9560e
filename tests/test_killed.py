"""A run that is killed outright and resumed ends with the same model, bit for bit, as one that was never stopped."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN, Tn, tn_script

LONG = ("fit", *TRAIN, "--batch_size", "8", "--epochs", "5")

# kills its own process when an audit event about a file happens for the n-th time: neither early nor late
KILLER = """
import os, signal, sys

event, file, nth = os.environ["KILL_AT"].split(":")
left = int(nth)

def hook(name, arguments):
    global left
    if name == event and any(str(argument).endswith(file) for argument in arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), getattr(signal, os.environ.get("KILL_WITH", "SIGKILL")))

sys.addaudithook(hook)
"""

MOMENTS = {
    "before the first checkpoint": "open:/history.jsonl:1",
    "while the first checkpoint is written": "os.rename:/.last.ckpt.writing:1",
    "before a later checkpoint is in place": "os.rename:/last.ckpt:3",
    "at the end of an epoch": "open:/history.jsonl:4",
    "before the model is in place": "os.rename:/model.safetensors:1",
    "before the config is in place": "os.rename:/config.yaml:1",
}


def history(folder: Path) -> list[dict[str, Any]]:
    """The history without the seconds."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(tn: Tn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = tn(*LONG, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def check_same(folder: Path, whole: Path) -> None:
    """The model is the same, every epoch was written down once, and nothing half-written is left."""
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [line["epoch"] for line in history(folder)] == [0, 1, 2, 3, 4]
    assert history(folder) == history(whole)
    assert (folder / "config.yaml").read_text() == (whole / "config.yaml").read_text()
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.fixture
def killer(tmp_path: Path) -> str:
    """A folder for PYTHONPATH that makes ``tn`` kill itself as KILL_AT says."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(KILLER)
    return str(site)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_chosen_moment(tn: Tn, whole: Path, tmp_path: Path, killer: str, moment: str) -> None:
    out = tmp_path / "run"
    killed = tn(*LONG, "--out", out, PYTHONPATH=killer, KILL_AT=MOMENTS[moment], TMPDIR=str(tmp_path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    unfinished = tn("sample", out)
    assert unfinished.returncode == 1
    assert unfinished.stderr.startswith("tn: error: ")
    resumed = tn("fit", "--resume", "--out", out)
    assert resumed.returncode == 0, resumed.stderr
    check_same(out, whole)


def test_killed_from_outside_twice(tn: Tn, environment: dict[str, str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for arguments, lines in ((LONG, 1), (("fit", "--resume"), 3)):
        process = subprocess.Popen(
            [tn_script(), *arguments, "--out", str(out)], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            while not (out / "history.jsonl").exists() or len(history(out)) < lines:
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.002)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert not (out / "model.safetensors").exists()
    resumed = tn("fit", "--resume", "--out", out)
    assert resumed.returncode == 0, resumed.stderr
    check_same(out, whole)


def test_resuming_a_finished_run_changes_nothing(tn: Tn, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    done = tn("fit", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    check_same(out, whole)


@pytest.mark.parametrize("how", [("--model.fit_prior", "afterwards"), ("--model.final_steps", "20")])
def test_a_prior_that_is_fitted_at_the_end(tn: Tn, tmp_path: Path, killer: str, how: tuple[str, str]) -> None:
    """The last checkpoint was written, the model was not: resuming must not fit the prior less, or twice."""
    options = ("fit", *TRAIN, *how, "--epochs", "2")
    done = tn(*options, "--out", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    killed = tn(*options, "--out", tmp_path / "run", PYTHONPATH=killer, KILL_AT="os.rename:/model.safetensors:1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = tn("fit", "--resume", "--out", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    "model",
    [
        "VAE --model.prior TRIP --model.prior.rank 3 --model.reinitialize fit --model.reinitialize_every 1",
        "VAE --model.prior VampPrior --model.prior.components 5 --model.prior.start data",
        "CPVAE --model.prior.components 5 --model.start_epochs 2",
        "CVAE",
        "TELBO",
        "JMVAE --model.prior TRIP --model.prior.rank 3",
        "HVAE --model.prior GaussianMixture",
    ],
)
def test_every_model_measured_on_data_drawn_anew(tn: Tn, tmp_path: Path, killer: str, model: str) -> None:
    """With dynamic binarisation, falling rates, and the best epoch of a validation set: the same after a kill."""
    data = ("--data", "digits", "--data.binarize", "true", "--data.train_size", "200")
    options = ("--features", "4", "--epochs", "4", "--batch_size", "32", "--decay", "0.6")
    held_out = ("--validation", "40", "--patience", "2")
    check_killed(tn, tmp_path, killer, "fit", "--model", *model.split(), *data, *options, *held_out)


def test_a_model_of_wholes_on_data_without_end(tn: Tn, tmp_path: Path, killer: str) -> None:
    """Sets that grow, and a learning rate that is halved, in the course of training."""
    data = ("--data", "sines", "--data.items", "128", "--data.grow_every", "160", "--data.length", "20")
    model = ("--model", "CompVAE", "--model.network.hidden", "8", "--model.halve_every", "6")
    check_killed(
        tn, tmp_path, killer, "fit", *model, *data, "--epochs", "4", "--batch_size", "32", "--validation", "64"
    )


def check_killed(tn: Tn, tmp_path: Path, killer: str, *line: str) -> None:
    """A run that is killed after its second epoch and goes on is the same as one that was not."""
    done = tn(*line, "--out", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    killed = tn(*line, "--out", tmp_path / "run", PYTHONPATH=killer, KILL_AT="os.rename:/last.ckpt:2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = tn("fit", "--resume", "--out", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert models[0] == models[1]
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_interrupted_by_the_keyboard(
    environment: dict[str, str], tn: Tn, whole: Path, tmp_path: Path, killer: str
) -> None:
    """Ctrl-C is answered in lines, not in a traceback, and the run goes on to the same end."""
    out = tmp_path / "run"
    when = {"KILL_AT": MOMENTS["at the end of an epoch"], "KILL_WITH": "SIGINT", "PYTHONPATH": killer}
    stopped = subprocess.run(
        [tn_script(), *LONG, "--out", str(out)],
        env={**environment, **when},
        capture_output=True,
        text=True,
        # a job in the background inherits that SIGINT is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert stopped.returncode == 130, stopped.stderr
    assert f"tn: stopped; go on with: tn fit --resume --out {out}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (out / "model.safetensors").exists()
    resumed = tn("fit", "--resume", "--out", out)
    assert resumed.returncode == 0, resumed.stderr
    check_same(out, whole)


def test_fewer_epochs_than_were_trained(tn: Tn, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    done = tn("fit", "--resume", "--out", out, "--epochs", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("tn: error: cannot go on from ")
    assert "Traceback" not in done.stderr
