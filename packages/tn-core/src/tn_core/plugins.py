"""The plugin host: finds plugins by entry points, contains their faults, resolves names to targets.

Faults are contained at three stages: loading an entry point, registering what it names, calling its hooks. A plugin
that fails at any of them is skipped with one warning. Environment variables:

    TN_PLUGINS_STRICT=1      a faulty plugin is an error
    TN_PLUGINS_DISABLE=a,b   leave out the plugins (entry points or distributions) a and b
    TN_PLUGINS_DISABLE=*     leave out everything but the six packages of this project
"""

import difflib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

import pluggy

from tn_core import hookspecs
from tn_core.errors import UserError
from tn_core.hookspecs import PROJECT, Kind

__all__ = ["FIRST_PARTY", "Plugin", "PluginHost", "PluginWarning", "default_host"]

FIRST_PARTY = ("tn-core", "tn-priors", "tn-vae", "tn-gan", "tn-compvae", "tn-eval")


class PluginWarning(UserWarning):
    """A plugin was skipped."""


@dataclass
class Plugin:
    """One plugin and what became of it.

    Attributes:
        name: the entry point's name.
        distribution: the distribution that brought it, with its version.
        problem: why it was skipped; empty if it was not.
        offers: for each kind the names it registered.
    """

    name: str
    distribution: str
    problem: str
    offers: dict[Kind, tuple[str, ...]]


@dataclass(frozen=True)
class _Target:
    plugin: Plugin
    target: str | Callable[..., Any]


class PluginHost:
    """Holds the plugins that were found; everything by name goes through it.

    Arguments:
        points: the entry points to load; None: those of the group ``tn`` that are installed.
        strict: raise instead of warning; None: as TN_PLUGINS_STRICT says.
        disable: what to leave out; None: as TN_PLUGINS_DISABLE says.

    Raises:
        UserError: if strict and a plugin fails.
    """

    def __init__(
        self,
        points: Iterable[EntryPoint] | None = None,
        *,
        strict: bool | None = None,
        disable: str | None = None,
    ) -> None:
        self.strict = os.environ.get("TN_PLUGINS_STRICT", "") not in ("", "0") if strict is None else strict
        disable = os.environ.get("TN_PLUGINS_DISABLE", "") if disable is None else disable
        self._disabled = {part.strip() for part in disable.split(",") if part.strip()}
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        for point in sorted(entry_points(group=PROJECT) if points is None else points, key=_rank):
            self._load(point)

    def _load(self, point: EntryPoint) -> None:
        owner = point.dist.name if point.dist is not None else ""
        label = f"{owner} {point.dist.version}" if point.dist is not None else "unknown distribution"
        plugin = Plugin(point.name, label, "", {})
        self.plugins.append(plugin)
        if {point.name, owner} & self._disabled or ("*" in self._disabled and owner not in FIRST_PARTY):
            plugin.problem = "disabled by TN_PLUGINS_DISABLE"
            return
        try:
            loaded = point.load()
        except (Exception, SystemExit) as error:
            self._skip(plugin, "while loading", error)
            return
        self.register(loaded, plugin)

    def register(self, loaded: object, plugin: Plugin | None = None) -> None:
        """Registers a plugin object, from an entry point or (in tests and notebooks) by hand."""
        if plugin is None:
            plugin = Plugin(getattr(loaded, "__name__", type(loaded).__name__), "registered by hand", "", {})
            self.plugins.append(plugin)
            self.__dict__.pop("_targets", None)
        known = self.manager.is_registered(loaded)
        try:
            self.manager.register(loaded, plugin.name)
            self.manager.check_pending()
        except (Exception, SystemExit) as error:
            if not known and self.manager.is_registered(loaded):
                self.manager.unregister(loaded)
            self._skip(plugin, "while registering", error)

    def _skip(self, plugin: Plugin, stage: str, error: BaseException) -> None:
        summary = " ".join(f"{type(error).__name__}: {error}".split())
        plugin.problem = f"{stage}: {summary}"
        plugin.offers.clear()
        message = f"plugin {plugin.name!r} ({plugin.distribution}) skipped {plugin.problem}"
        if self.strict:
            raise UserError(message) from error
        warnings.warn(message, PluginWarning, stacklevel=2)

    @cached_property
    def _targets(self) -> dict[Kind, dict[str, _Target]]:
        """Calls every hook of every plugin, each in its own try."""
        kinds: tuple[Kind, ...] = get_args(Kind)
        found: dict[Kind, dict[str, _Target]] = {kind: {} for kind in kinds}
        for plugin in self.plugins:
            if plugin.problem or not self.manager.has_plugin(plugin.name):
                continue
            loaded = self.manager.get_plugin(plugin.name)
            offered: dict[Kind, Mapping[str, str | Callable[..., Any]]] = {}
            try:
                for kind in kinds:
                    for implementation in getattr(self.manager.hook, kind).get_hookimpls():
                        if implementation.plugin is loaded:
                            offered[kind] = _checked(kind, implementation.function())
            except (Exception, SystemExit) as error:
                self._skip(plugin, "when called", error)
                self.manager.unregister(loaded)
                continue
            for kind, targets in offered.items():
                plugin.offers[kind] = tuple(targets)
                for name, target in targets.items():
                    if name in found[kind]:
                        first = found[kind][name].plugin
                        raise UserError(
                            f"two plugins offer {name!r} among {kind}: {first.name!r} ({first.distribution}) and "
                            f"{plugin.name!r} ({plugin.distribution}); leave one out with TN_PLUGINS_DISABLE"
                        )
                    found[kind][name] = _Target(plugin, target)
        return found

    def names(self, kind: Kind) -> list[str]:
        """The names on offer, sorted."""
        return sorted(self._targets[kind])

    def check(self, kind: Kind, name: str) -> None:
        """Raises a UserError if nobody offers the name, naming the nearest known ones. Imports nothing."""
        known = self.names(kind)
        if name in known:
            return
        lower = {k.lower(): k for k in known}
        near = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        listed = ", ".join(known) if known else f"none: no installed package offers {kind}"
        raise UserError(f"no {kind[:-1]} is called {name!r}; {hint}known: {listed}")

    def target(self, kind: Kind, name: str) -> str | Callable[..., Any]:
        """What was registered under a name, not imported."""
        self.check(kind, name)
        return self._targets[kind][name].target

    def get(self, kind: Kind, name: str) -> Any:
        """Returns the target of a name, importing it if need be.

        Raises:
            UserError: if nobody offers the name, or its import fails.
        """
        self.check(kind, name)
        entry = self._targets[kind][name]
        if not isinstance(entry.target, str):
            return entry.target
        module, _, attribute = entry.target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package == module.partition(".")[0]:  # the plugin's own package lacks a module
                raise self._cannot_import(name, entry, error) from error
            where = f"{entry.plugin.name!r} ({entry.plugin.distribution})"
            raise UserError(
                f"{name!r} of plugin {where} needs the package {package!r}: "
                f"python -m pip install {_to_install(package)}"
            ) from error
        except (Exception, SystemExit) as error:
            raise self._cannot_import(name, entry, error) from error

    @staticmethod
    def _cannot_import(name: str, entry: _Target, error: BaseException) -> UserError:
        return UserError(
            f"{name!r} of plugin {entry.plugin.name!r} ({entry.plugin.distribution}) cannot be imported from "
            f"{entry.target!r}: {type(error).__name__}: {error}"
        )


def _to_install(package: str) -> str:
    """What to hand to pip for an import name."""
    known = {"sklearn": "scikit-learn", "PIL": "pillow", "lightning": "'tn-core[train]'", "yaml": "pyyaml"}
    return known.get(package, package.replace("_", "-"))


def _checked(kind: Kind, targets: object) -> Mapping[str, str | Callable[..., Any]]:
    if not isinstance(targets, Mapping):
        raise TypeError(f"hook {kind} must return a mapping from names to targets, got {type(targets).__name__}")
    for name, target in targets.items():
        if not isinstance(name, str) or not (callable(target) or (isinstance(target, str) and ":" in target)):
            raise TypeError(f"hook {kind}: {name!r} must map to a class, a function or 'package.module:Name'")
    return targets


def _rank(point: EntryPoint) -> tuple[bool, str]:
    """First parties first, so that a third party cannot be the one that was there before."""
    return (point.dist is None or point.dist.name not in FIRST_PARTY, point.name)


@cache
def default_host() -> PluginHost:
    """The host of this process, with every installed plugin."""
    return PluginHost()
