"""Components: parts of a run that are chosen by name and built through the plugin host.

A component is written as a mapping with its ``name`` and its arguments, in which further components may be nested:

    {"name": "VAE", "network": {"name": "MLP"}, "prior": {"name": "TRIP", "rank": 20}}

A constructor says that an argument is a component by its annotation, ``Annotated[nn.Module, Component("networks")]``.
What the surroundings know (shape of the data, number of latents, sizes of the labels) is filled in wherever a
constructor has an argument of that name. Names are resolved by the plugin host alone, never by an import path, so that
a config file from elsewhere cannot make this program run anything that is not installed as a plugin.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tn_core.errors import UserError
from tn_core.hookspecs import Kind
from tn_core.plugins import PluginHost

__all__ = ["PROVIDED", "Component", "Spec", "build", "components_of"]

PROVIDED = ("shape", "features", "outputs", "labels", "root")
"""Arguments that the surroundings fill in."""

Spec = dict[str, Any]


@dataclass(frozen=True)
class Component:
    """Marks an argument as a component.

    Attributes:
        kind: where its name is looked up.
        default: the name taken by the command line if none is given.
        sized_by: the name of a static method of the class that has the argument: given the other arguments and what the
            surroundings know, all by name, it returns what this component is to be told instead, such as a network
            its number of ``outputs``.
    """

    kind: Kind
    default: str | None = None
    sized_by: str | None = None


def components_of(target: Callable[..., Any]) -> dict[str, Component]:
    """The arguments of a class or function that are components."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # annotations that only a type checker can read name no components
        return {}
    found = {}
    for name, hint in hints.items():
        if get_origin(hint) is Annotated:
            markers = [m for m in get_args(hint)[1:] if isinstance(m, Component)]
            if markers:
                found[name] = markers[0]
    return found


def build(spec: Mapping[str, Any], kind: Kind, host: PluginHost, **provided: Any) -> Any:
    """Builds a component and, first, the components in it.

    Arguments:
        spec: its name and arguments.
        kind: what it is.
        host: where names are looked up.
        provided: what the surroundings know, by the names in ``PROVIDED``.

    Returns:
        What the target returns.

    Raises:
        UserError: if a name is unknown or an argument is missing, unknown or not allowed.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise UserError(f"a component of kind {kind} needs a name, got {spec!r}")
    arguments = dict(spec)
    name = arguments.pop("name")
    target = host.get(kind, name)
    inner = components_of(target)
    try:
        accepted = inspect.signature(target).parameters
    except (TypeError, ValueError):
        raise UserError(f"{name} cannot be built: it does not say what arguments it takes") from None
    # what another one is sized by comes first
    for key, component in sorted(inner.items(), key=lambda item: item[1].sized_by is not None):
        given = arguments.get(key, component.default)
        if isinstance(given, str):
            given = {"name": given}
        if isinstance(given, Mapping):
            known = dict(provided)
            if component.sized_by is not None:
                try:
                    known |= getattr(target, component.sized_by)(**provided | _defaults(accepted) | arguments)
                except (TypeError, ValueError) as error:
                    raise UserError(f"{name}: {error}") from error
            arguments[key] = build(given, component.kind, host, **known)
    for key, value in provided.items():
        if key in accepted and value is not None:
            arguments.setdefault(key, value)
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{name}: {error}; its arguments are {', '.join(accepted)}") from None
    try:
        return target(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error


def _defaults(accepted: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    return {name: p.default for name, p in accepted.items() if p.default is not p.empty}
