"""Wrong input of every sort: a status other than 0, one line on stderr that says what is wrong, nothing left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import TRAIN, Tn, contents
from safetensors.torch import load, save


def refused(tn: Tn, *arguments: str | Path, says: str | tuple[str, ...], **variables: str) -> None:
    """Asserts that a command ends with one line of error that has these parts."""
    done = tn(*arguments, **variables)
    assert done.returncode in (1, 2), done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("tn: error: ")
    for part in (says,) if isinstance(says, str) else says:
        assert part in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "VEA"], ("no model is called 'VEA'", "did you mean VAE or ", "known: ")),
        (["--model.prior", "TRPI"], ("no prior is called 'TRPI'", "did you mean TRIP")),
        (["--model.network", "SmalConv"], ("no network is called 'SmalConv'", "did you mean SmallConv")),
        (["--data", "digit"], ("no dataset is called 'digit'", "did you mean digits")),
        (["--epohcs", "3"], ("--epohcs", "did you mean --epochs")),
        (["--model.prior.rnak", "3"], ("rnak", "did you mean --model.prior.rank")),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--epochs", "many"], "epochs"),
        (["--features", "0"], "features must be at least 1, got 0"),
        (["--batch_size", "-3"], "batch_size must be at least 1, got -3"),
        (["--model.prior.rank", "0"], "rank must be at least 1, got 0"),
        (["--model.prior.components", "0"], "components must be at least 1, got 0"),
        (["--model.learning_rate", "-1"], "learning_rate must be positive"),
        (["--model.learning_rate", "nan"], "learning_rate"),
        (["--model.network", "DCGAN"], "multiples of 16"),
        (["--data.missing", "1.5"], "missing"),
        (["--data.train_size", "0"], "train_size"),
        (["--data.train_size", "100000"], "only 1437 training items"),
        (["--precision", "3-bit"], "precision"),
        (["--accelerator", "abacus"], "abacus"),
        (["--devices", "0"], "devices"),
        (["--strategy", "none-such"], "none-such"),
        (["--seed", "99999999999999999999999"], "seed"),
        (["--data", "mnist", "--data_root", "nowhere"], ("MNIST", "--data.download")),
        (["--patience", "3"], "--validation"),
        (["--decay", "1.5"], "decay must be from 0 to 1, got 1.5"),
        (["--validation", "100000"], ("leaves nothing to train on", "1437")),
        (["--model", "GAN", "--validation", "10"], "GAN has no validation_step"),
        (["--model.reinitialize", "random", "--model.prior", "StandardNormal"], "a method reinitialize"),
        (["--model.reinitialize_every", "0"], "reinitialize_every must be at least 1"),
        (["--model", "CPVAE", "--model.prior", "StandardNormal"], "categories must be at least 1, got None"),
        (["--model", "CPVAE", "--model.categories", "3"], "categories is 3, but the prior has 10 components"),
        (["--model", "HVAE", "--model.hidden", "0"], "hidden must be at least 1"),
        (["--model.prior", "VampPrior", "--model.prior.start", "zero"], "start"),
        (
            ["--model.prior", "GaussianMixture", "--model.prior.components", "2000", "--model.final_steps", "1"],
            ("VAE cannot be trained on digits", "needs at least 2000 training items, there are 1437"),
        ),
        (["--resume"], "nothing to resume"),
        (["--config", "nowhere.yaml"], "cannot read the config file nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_fit(tn: Tn, tmp_path: Path, arguments: list[str], says: str) -> None:
    refused(tn, "fit", *arguments, "--out", "out", cwd=tmp_path, says=says)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("content", ["- a list\n", "{", "epochs: [", "\udc80"], ids=["list", "brace", "open", "bytes"])
def test_fit_with_a_config_that_is_none(tn: Tn, tmp_path: Path, content: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content.encode(errors="surrogateescape"))
    before = contents(tmp_path)
    refused(tn, "fit", "--config", "c.yaml", "--out", "out", cwd=tmp_path, says="c.yaml")
    assert contents(tmp_path) == before


def test_fit_into_a_folder_that_is_no_good(tn: Tn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine too")
    before = contents(tmp_path)
    for out, says in (("file", "is a file"), ("file/deeper/out", "not a writable folder"), ("used", "is not empty")):
        refused(tn, "fit", *TRAIN, "--out", out, cwd=tmp_path, says=says)
    assert contents(tmp_path) == before


def test_fit_into_a_run(tn: Tn, run: Path) -> None:
    before = contents(run)
    refused(tn, "fit", *TRAIN, "--epochs", "1", "--out", run, says=("not empty", "--resume"))
    refused(tn, "fit", "--seed", "1", "--resume", "--out", run, says="seed was 0 and is 1")
    refused(tn, "fit", "--model.prior.rank", "4", "--resume", "--out", run, says=("model was", "is"))
    assert contents(run) == before


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None], ids=["empty", "foreign", "truncated"])
def test_resume_from_a_damaged_checkpoint(tn: Tn, run: Path, damage: bytes | None) -> None:
    checkpoint = run / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-2000] if damage is None else damage)
    before = contents(run)
    refused(tn, "fit", "--epochs", "2", "--resume", "--out", run, says="cannot go on from")
    after = contents(run)
    # that more epochs were asked for may be noted down
    assert {k: v for k, v in after.items() if k != "run.yaml"} == {k: v for k, v in before.items() if k != "run.yaml"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--labels", "digit=12"], ("no value '12'", "0, 1, 2")),
        (["--labels", "digit=-1"], "no value '-1'"),
        (["--labels", "digit=three"], "no value 'three'"),
        (["--labels", "digti=3"], ("digti", "digit")),
        (["--labels", "digit"], "LABEL=VALUE"),
        (["--labels", "digit="], "no value ''"),
        (["--labels", "digit=!0|1|2|3|4|5|6|7|8|9"], "rules out every value"),
        (["--rows", "hat"], ("no label is called 'hat'", "digit")),
        (["--count", "0"], "at least 1"),
        (["--columns", "0"], "at least 1"),
        (["--out", "picture.jpg"], ".png"),
        (["--out", "nowhere/picture.png"], "nowhere"),
        (["--seed", "99999999999999999999999"], "seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_sample(tn: Tn, run: Path, arguments: list[str], says: str) -> None:
    before = contents(run)
    refused(tn, "sample", run, *arguments, cwd=run, says=says)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["impute", "--out", "nowhere/imputed.csv"], "nowhere"),
        (["impute", "--split", "validation"], "split"),
        (["impute", "--batch_size", "0"], "batch_size"),
        (["evaluate", "--metrics", '["elbow"]'], ("no metric is called 'elbow'", "did you mean elbo?")),
        (["evaluate", "--iwae_samples", "0"], "iwae_samples must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impute_and_evaluate(tn: Tn, run: Path, arguments: list[str], says: str) -> None:
    before = contents(run)
    refused(tn, arguments[0], run, *arguments[1:], cwd=run, says=says)
    assert contents(run) == before


def change(config: dict[str, object], **changes: object) -> bytes:
    return yaml.safe_dump({**config, **changes}).encode()


def with_a_variable_twice(weights: bytes) -> bytes:
    found = load(weights)
    found["prior.order"][0] = found["prior.order"][1]
    return save(found)


DAMAGES: dict[str, tuple[str, Callable[[bytes, dict[str, object]], bytes | None]]] = {
    "config missing": ("config.yaml", lambda old, config: None),
    "config empty": ("config.yaml", lambda old, config: b""),
    "config truncated": ("config.yaml", lambda old, config: old[:40]),
    "config no text": ("config.yaml", lambda old, config: b"\x80\xff\x00"),
    "config no mapping": ("config.yaml", lambda old, config: b"- model\n"),
    "config runs code": ("config.yaml", lambda old, config: b"model: !!python/object/apply:os.getcwd []\n"),
    "config foreign": ("config.yaml", lambda old, config: b"model: resnet50\nlayers: 50\n"),
    "config unknown model": ("config.yaml", lambda old, config: change(config, model={"name": "Diffusion"})),
    "config import path": ("config.yaml", lambda old, config: change(config, model={"name": "os.system"})),
    "config shape": ("config.yaml", lambda old, config: change(config, shape="round")),
    "config labels": ("config.yaml", lambda old, config: change(config, labels=[1, 2])),
    "config no features": ("config.yaml", lambda old, config: change(config, features=None)),
    "weights missing": ("model.safetensors", lambda old, config: None),
    "weights empty": ("model.safetensors", lambda old, config: b""),
    "weights truncated": ("model.safetensors", lambda old, config: old[: len(old) // 2]),
    "weights foreign": ("model.safetensors", lambda old, config: b"PK\x03\x04 a pickle in a zip"),
    "weights out of order": ("model.safetensors", lambda old, config: with_a_variable_twice(old)),
    "weights of another model": ("config.yaml", lambda old, config: change(config, features=5)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_sample_from_a_damaged_model(tn: Tn, run: Path, damage: str) -> None:
    name, damager = DAMAGES[damage]
    damaged = damager((run / name).read_bytes(), yaml.safe_load((run / "config.yaml").read_text()))
    (run / name).unlink()
    if damaged is not None:
        (run / name).write_bytes(damaged)
    before = contents(run)
    refused(tn, "sample", run, "--labels", "digit=3", says="")
    assert contents(run) == before


@pytest.mark.parametrize("command", ["sample", "impute", "evaluate"])
def test_no_model_at_all(tn: Tn, tmp_path: Path, command: str) -> None:
    refused(tn, command, "nowhere", cwd=tmp_path, says="nowhere")
    (tmp_path / "empty").mkdir()
    refused(tn, command, "empty", cwd=tmp_path, says="config.yaml")
    assert contents(tmp_path) == {"empty": b""}


@pytest.mark.parametrize("command", ["impute", "evaluate"])
@pytest.mark.parametrize("data", [None, "digits", {"name": "digit"}, {"name": "digits", "colour": "red"}], ids=str)
def test_a_config_whose_data_are_no_good(tn: Tn, run: Path, command: str, data: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_bytes(change(config, data=data))
    before = contents(run)
    refused(tn, command, run, says="")
    assert contents(run) == before


def test_unknown_commands(tn: Tn) -> None:
    refused(tn, "smaple", says=("no command is called 'smaple'", "did you mean sample"))
    refused(tn, "--fit", says="--fit")


BLOCKER = """
import os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == os.environ["BLOCKED"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize(
    ("package", "says"),
    [
        ("lightning", "tn-core[train]"),
        ("sklearn", "pip install scikit-learn"),
        ("zuko", "pip install zuko"),
        ("torch", "pip install torch"),
    ],
)
def test_fit_without_a_package(tn: Tn, tmp_path: Path, package: str, says: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKER)
    work = tmp_path / "work"
    work.mkdir()
    refused(tn, "fit", *TRAIN, "--out", "out", cwd=work, says=says, PYTHONPATH=str(tmp_path / "site"), BLOCKED=package)
    assert contents(work) == {}


@pytest.mark.parametrize("package", ["torchvision", "PIL"])
def test_sample_without_a_package(tn: Tn, run: Path, tmp_path: Path, package: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKER)
    before = contents(run)
    refused(tn, "sample", run, says="pip install", PYTHONPATH=str(tmp_path / "site"), BLOCKED=package)
    assert contents(run) == before
