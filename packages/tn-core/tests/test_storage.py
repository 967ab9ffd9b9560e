"""A model's folder: round trips, and everything that can be wrong with a folder from elsewhere."""

import os
import pickle
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from tn_core import UserError, hookimpl
from tn_core.plugins import FIRST_PARTY, PluginHost
from tn_core.protocols import Interval
from tn_core.storage import CONFIG, WEIGHTS, describe, labels_of, load_model, read_config, save_model, write_text


class Tiny(nn.Module):
    """Parameters, a buffer of another dtype and a scalar."""

    steps: torch.Tensor

    def __init__(self, shape: tuple[int, ...], features: int, labels: list[int], width: int = 3) -> None:
        super().__init__()
        self.arguments = (shape, features, labels, width)
        self.inner = nn.Sequential(nn.Linear(features, width), nn.BatchNorm1d(width))
        self.scale = nn.Parameter(torch.rand(()))
        self.register_buffer("steps", torch.tensor([1, 2, 3]))


class Tied(nn.Module):
    """Two names for one parameter, as where a decoder uses the encoder's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight


@pytest.fixture
def host() -> PluginHost:
    host = PluginHost([], strict=True)
    host.register(SimpleNamespace(models=hookimpl(lambda: {"Tiny": Tiny, "Tied": Tied})))
    return host


def config_of(**arguments: Any) -> dict[str, Any]:
    return describe(
        {"name": "Tiny", **arguments},
        {"name": "digits"},
        (1, 8, 8),
        {"digit": "abc", "bold": ["no", "yes"]},
        features=4,
        seed=7,
    )


@pytest.fixture
def saved(tmp_path: Path, host: PluginHost) -> Path:
    """A folder with a model in it."""
    save_model(Tiny((1, 8, 8), 4, [3, 2]), config_of(), tmp_path / "run")
    return tmp_path / "run"


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_round_trip(tmp_path: Path, host: PluginHost) -> None:
    model = Tiny((1, 8, 8), 4, [3, 2], width=5)
    model.inner(torch.randn(16, 4))  # moves the running statistics
    folder = tmp_path / "deep" / "run"
    save_model(model, config_of(width=5), folder)
    assert names_in(folder) == [CONFIG, WEIGHTS]
    loaded, config = load_model(folder, host)
    assert isinstance(loaded, Tiny)
    assert loaded.arguments == ((1, 8, 8), 4, [3, 2], 5)
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
        assert loaded.state_dict()[name].dtype == value.dtype, name
    assert config == config_of(width=5)
    assert yaml.safe_load((folder / CONFIG).read_text()) == config
    x = torch.randn(6, 4)
    assert torch.equal(loaded.inner(x), model.eval().inner(x))


def test_what_the_config_says() -> None:
    config = config_of(width=5)
    assert list(config) == ["model", "data", "shape", "labels", "features", "seed", "versions"]
    assert config["model"] == {"name": "Tiny", "width": 5}
    assert config["labels"] == {"digit": ["a", "b", "c"], "bold": ["no", "yes"]}
    assert config["versions"]["torch"] == version("torch")
    assert "tn-core" in config["versions"]
    assert set(config["versions"]) <= {*FIRST_PARTY, "torch"}


def test_continuous_labels_are_intervals(saved: Path, host: PluginHost) -> None:
    labels = {"digit": ["a", "b"], "ink": Interval(0.25, 1)}
    config = describe({"name": "Tiny"}, {"name": "data"}, (1, 8, 8), labels, features=4)
    assert config["labels"] == {"digit": ["a", "b"], "ink": {"low": 0.25, "high": 1}}
    assert labels_of(config["labels"]) == labels
    save_model(Tiny((1, 8, 8), 4, [2, 1]), config, saved)
    assert load_model(saved, host)[0].arguments[2] == [2, Interval(0.25, 1)]


def test_saving_again_replaces(saved: Path, host: PluginHost) -> None:
    model = Tiny((1, 8, 8), 4, [3, 2], width=6)
    save_model(model, config_of(width=6), saved)
    assert torch.equal(load_model(saved, host)[0].scale, model.scale)
    assert names_in(saved) == [CONFIG, WEIGHTS]


def test_saving_does_not_move_or_change_the_model(saved: Path) -> None:
    model = Tiny((1, 8, 8), 4, [3, 2]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(model, config_of(), saved)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_weights_that_are_not_contiguous(tmp_path: Path, host: PluginHost) -> None:
    model = Tiny((1, 8, 8), 4, [3, 2])
    linear = model.inner[0]
    assert isinstance(linear, nn.Linear)
    linear.weight.data = torch.randn(4, 3).T
    save_model(model, config_of(), tmp_path)
    assert torch.equal(load_model(tmp_path, host)[0].inner[0].weight, linear.weight)


def test_tied_weights(tmp_path: Path, host: PluginHost) -> None:
    model = Tied()
    save_model(model, {**config_of(), "model": {"name": "Tied"}}, tmp_path)
    loaded, _ = load_model(tmp_path, host)
    assert torch.equal(loaded.one.weight, model.one.weight)
    assert torch.equal(loaded.two.weight, model.two.weight)
    assert torch.equal(loaded.two.bias, model.two.bias)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def scramble(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [cut, scramble, Path.unlink, as_folder, lambda p: p.write_bytes(b""), lambda p: p.write_text("not weights")],
)
def test_damaged_weights(saved: Path, host: PluginHost, damage: Callable[[Path], object]) -> None:
    damage(saved / WEIGHTS)
    with pytest.raises(UserError, match=f"{WEIGHTS} cannot be read"):
        load_model(saved, host)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["pickle", "torch", "old torch"])
def test_a_pickle_is_refused_unopened(saved: Path, host: PluginHost, tmp_path: Path, writer: str) -> None:
    trace = tmp_path / "unpickled"
    bomb = Bomb(trace)
    if writer == "pickle":
        (saved / WEIGHTS).write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, saved / WEIGHTS, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_model(saved, host)
    assert not trace.exists()
    pickle.loads(pickle.dumps(bomb))  # it does go off where a pickle is loaded
    assert trace.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"])
def test_yaml_that_would_run_something(saved: Path, host: PluginHost, tmp_path: Path, tag: str) -> None:
    trace = tmp_path / "constructed"
    (saved / CONFIG).write_text(f"model: {tag} [{trace}]\n")
    with pytest.raises(UserError, match=f"{CONFIG} is not a config"):
        load_model(saved, host)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["Other", "os:mkdir", "torch.nn:Linear", "tn_core.storage:save_model"])
def test_a_model_that_is_not_installed(saved: Path, host: PluginHost, name: str) -> None:
    config = read_config(saved)
    config["model"] = {"name": name}
    (saved / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=f"no model is called '{name}'"):
        load_model(saved, host)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {"name": "Tiny", "width": 9}},
            r"does not fit .*inner.0.weight has shape \(3, 4\), expected \(9, 4\)",
        ),
        ({"features": 5}, r"does not fit .*inner.0.weight has shape \(3, 4\), expected \(3, 5\)"),
        ({"model": {"name": "Tied"}}, r"does not fit .*missing \['one.bias'.*unexpected \['inner.0.bias'"),
        ({"model": {"name": "Tiny", "depth": 2}}, "Tiny: got an unexpected keyword argument 'depth'"),
        ({"model": {"width": 2}}, "needs a name"),
        ({"model": 3}, "model"),
        ({"model": "Other"}, "model"),
        ({"model": ["Tiny"]}, "model"),
        ({"model": None}, "model"),
        ({"shape": "wide"}, "the config describes no model: ValueError"),
        ({"shape": None}, "the config describes no model: TypeError"),
        ({"labels": [1, 2]}, r"its labels must be names, each with a list of values, got \[1, 2\]"),
        ({"labels": {"ink": {"low": 0.5}}}, r"its labels must be names, .* a continuous label has low < high"),
        (
            {"labels": {"ink": {"low": 1, "high": 0.5}}},
            r"its labels must be names, .* a continuous label has low < high",
        ),
        ({"labels": {"digit": 3}}, r"its labels must be names, each with a list of values, got \{'digit': 3\}"),
        ({"features": "many"}, "the config describes no model: ValueError"),
    ],
)
def test_configs_that_do_not_fit(saved: Path, host: PluginHost, change: dict[str, Any], message: str) -> None:
    config = {**read_config(saved), **change}
    (saved / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=message):
        load_model(saved, host)


@pytest.mark.parametrize("key", ["shape", "labels", "features"])
def test_configs_that_lack_an_entry(saved: Path, host: PluginHost, key: str) -> None:
    config = read_config(saved)
    del config[key]
    (saved / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=f"the config describes no model: KeyError: '{key}'"):
        load_model(saved, host)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it names no model"),
        (b"- a\n- b\n", "it names no model"),
        (b"data: 3\n", "it names no model"),
        (b"model: [unclosed\n", "is not a config: while parsing"),
        (b"model: \xff\xfe\n", "is not a config"),
        (b"model: \x00\n", "is not a config"),
    ],
)
def test_configs_that_are_none(saved: Path, content: bytes, message: str) -> None:
    (saved / CONFIG).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_config(saved)
    assert "\n" not in str(caught.value)


def test_folders_that_are_none(tmp_path: Path, host: PluginHost) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load_model(tmp_path / "absent", host)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        load_model(tmp_path / "file", host)
    with pytest.raises(UserError, match=f"holds no {CONFIG}"):
        load_model(tmp_path, host)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Below a regular file, where not even an administrator can write."""
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot write to"):
            save_model(Tiny((1,), 4, []), config_of(), folder)
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("failing", [WEIGHTS, CONFIG])
def test_a_disk_that_fails_leaves_nothing_half_written(
    saved: Path, host: PluginHost, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)

    config = (saved / CONFIG).read_text()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write to .*No space left on device"):
        save_model(Tiny((1, 8, 8), 4, [3, 2]), config_of(note="new"), saved)
    assert names_in(saved) == [CONFIG, WEIGHTS]  # no temporary files
    assert (saved / CONFIG).read_text() == config
    fresh = saved.parent / "fresh"
    with pytest.raises(UserError):
        save_model(Tiny((1, 8, 8), 4, [3, 2]), config_of(), fresh)
    with pytest.raises(UserError, match=f"holds no {CONFIG}"):  # so that it is not taken for a trained model
        load_model(fresh, host)


def test_a_config_that_cannot_be_written_leaves_the_old_model(saved: Path, host: PluginHost) -> None:
    """YAML has no word for a Path; the weights of a model that cannot be described replace nothing."""
    before = load_model(saved, host)[0].scale
    with pytest.raises(Exception, match=r"Path|represent"):
        save_model(Tiny((1, 8, 8), 4, [3, 2]), config_of(out=saved), saved)
    assert names_in(saved) == [CONFIG, WEIGHTS]
    assert torch.equal(load_model(saved, host)[0].scale, before)


def test_write_text_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    write_text(path, "first")
    write_text(path, "second")
    assert path.read_text() == "second"

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_text(path, "third")
    assert path.read_text() == "second"
    assert names_in(tmp_path) == ["text"]
