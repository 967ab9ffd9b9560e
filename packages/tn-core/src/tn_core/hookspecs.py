"""The hooks of the plugin host: one a kind, each returning a mapping from names to targets.

A plugin is a module (or object) that the entry-point group ``tn`` names. It implements any of these hooks with
``@tn_core.hookimpl``. A target is the class or function itself, or ``"package.module:Name"``, which is imported when
it is first used: plugins that name their targets this way cost nothing at start-up.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pluggy

__all__ = [
    "PROJECT",
    "Kind",
    "aggregations",
    "commands",
    "datasets",
    "hookimpl",
    "hookspec",
    "metrics",
    "models",
    "networks",
    "priors",
    "tables",
]

PROJECT = "tn"

Kind = Literal["priors", "networks", "aggregations", "models", "datasets", "metrics", "tables", "commands"]

Targets = Mapping[str, str | Callable[..., Any]]

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def priors() -> Targets:  # type: ignore[empty-body]
    """Priors: modules whose call returns a ``torch.distributions.Distribution`` over latents.

    Arguments filled in where the constructor has them: ``features``, ``labels``.
    """


@hookspec
def networks() -> Targets:  # type: ignore[empty-body]
    """Networks: modules with an ``encoder`` (data to ``outputs`` numbers) and a ``decoder`` (latents to data).

    Arguments filled in where the constructor has them: ``shape``, ``features``.
    """


@hookspec
def aggregations() -> Targets:  # type: ignore[empty-body]
    """Aggregations: modules that make one vector of the latents of a whole's parts, whatever their order and number."""


@hookspec
def models() -> Targets:  # type: ignore[empty-body]
    """Models: LightningModules that offer some of the protocols in ``tn_core.protocols``.

    Arguments filled in where the constructor has them: ``shape``, ``features``, ``labels``.
    """


@hookspec
def datasets() -> Targets:  # type: ignore[empty-body]
    """Data sets: callables that return a ``tn_core.protocols.Data``.

    Arguments filled in where the constructor has them: ``root`` (the folder of ``--data-root``).
    """


@hookspec
def metrics() -> Targets:  # type: ignore[empty-body]
    """Metrics: functions of a model and a data set that return a mapping from names to numbers."""


@hookspec
def tables() -> Targets:  # type: ignore[empty-body]
    """Tables: functions that train and evaluate what one published table compares."""


@hookspec
def commands() -> Targets:  # type: ignore[empty-body]
    """Commands: typed functions that become ``tn NAME``; their arguments and docstrings become its options."""
