"""A trained model is a folder: ``model.safetensors`` and ``config.yaml``. Loading it runs no pickle.

The config names the model through the plugin host, so that a folder from elsewhere can only build what is installed.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tn_core.components import Spec, build
from tn_core.errors import UserError
from tn_core.plugins import FIRST_PARTY, PluginHost
from tn_core.protocols import Interval, Values

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "WRITING",
    "build_model",
    "describe",
    "labels_of",
    "load_model",
    "read_config",
    "replacing",
    "save_model",
    "write_text",
]

CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
WRITING = ".writing"  # how the names of temporary files end


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` that takes its place at the end: a file is written whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{WRITING}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def describe(model: Spec, data: Spec, shape: Sequence[int], labels: Mapping[str, Values], **more: Any) -> Spec:
    """The config of a model: what it takes to build it again, and what it was trained on.

    Arguments:
        model: the model as a component.
        data: the data set as a component.
        shape: of one item.
        labels: label names, each with its values.
        more: further entries, such as the seed.
    """
    versions = {}
    for package in (*FIRST_PARTY, "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "model": model,
        "data": data,
        "shape": list(shape),
        "labels": {name: asdict(v) if isinstance(v, Interval) else list(v) for name, v in labels.items()},
        **more,
        "versions": versions,
    }


def labels_of(labels: Any) -> dict[str, Values]:
    """The labels that a config describes, each with its values.

    Arguments:
        labels: what the config says of them.

    Raises:
        UserError: if that does not describe labels.
    """
    try:
        return {
            name: Interval(float(values["low"]), float(values["high"])) if isinstance(values, dict) else _names(values)
            for name, values in labels.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"its labels must be names, each with a list of values, got {labels!r}; a continuous label has low < high"
        ) from None


def _names(values: Any) -> list[str]:
    if not isinstance(values, list):
        raise TypeError
    return values


def build_model(config: Mapping[str, Any], host: PluginHost) -> Any:
    """Builds the model that a config describes, untrained.

    Raises:
        UserError: if the config does not describe one.
    """
    try:
        labels = [v if isinstance(v, Interval) else len(v) for v in labels_of(config["labels"]).values()]
        shape, features = tuple(int(x) for x in config["shape"]), int(config["features"])
        model = config["model"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the config describes no model: {type(error).__name__}: {error}") from None
    return build(model, "models", host, shape=shape, features=features, labels=labels)


def save_model(model: "nn.Module", config: Mapping[str, Any], folder: Path) -> None:
    """Writes a model's folder; the config goes last, so that a folder with a config is whole.

    Raises:
        UserError: if the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        text = yaml.safe_dump(dict(config), sort_keys=False)
    except yaml.YAMLError as error:
        raise UserError(f"the config cannot be written as YAML: {' '.join(str(error).split())}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # both are written before either takes its place
        with replacing(folder / CONFIG) as config_file, replacing(folder / WEIGHTS) as weights_file:
            config_file.write_text(text)
            # copies, since tensors that share memory cannot be stored
            save_file({k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}, weights_file)
            shutil.copymode(config_file, weights_file)  # safetensors makes files that only their owner can read
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write to {folder}: {error}") from None


def read_config(folder: Path) -> Spec:
    """Reads the config of a model's folder.

    Raises:
        UserError: if there is none or it is not a config.
    """
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; it should be one that `tn fit --out` wrote")
    if not path.is_file():
        raise UserError(f"{folder} holds no {CONFIG}: no model was trained there, or `tn fit` has not finished")
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not a config: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or "model" not in config:
        raise UserError(f"{path} is not a config: it names no model")
    try:
        labels_of(config.get("labels", {}))
    except UserError as error:
        raise UserError(f"{path} is not a config: {error}") from None
    return config


def load_model(folder: Path, host: PluginHost) -> tuple[Any, Spec]:
    """Loads a trained model, in evaluation mode on the CPU.

    Returns:
        The model and its config.

    Raises:
        UserError: if the folder is not that of a model, or a file in it is corrupt or does not fit the config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder)
    model = build_model(config, host)
    path = folder / WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read, it is missing, cut short or not a safetensors file: {error}") from None
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or extra:
        raise UserError(f"{path} does not fit {folder / CONFIG}: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, value in wanted.items():
        if weights[name].shape != value.shape:
            raise UserError(
                f"{path} does not fit {folder / CONFIG}: {name} has shape {tuple(weights[name].shape)}, "
                f"expected {tuple(value.shape)}"
            )
    try:
        model.load_state_dict(weights)
    except ValueError as error:  # a module may know what its numbers have to be
        raise UserError(f"{path} does not fit {folder / CONFIG}: {error}") from None
    return model.eval(), config
