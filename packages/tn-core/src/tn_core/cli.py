"""The ``tn`` command: jsonargparse over the typed functions that plugins register as commands.

Components are chosen by name (``--model VAE``) and take their options below it (``--model.prior.rank 20``). A config
file given by ``--config`` says the same as nested mappings. Names are checked before anything heavy is imported.
"""

import difflib
import inspect
import json
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, get_args

from tn_core.components import PROVIDED, Component, components_of
from tn_core.errors import UserError
from tn_core.hookspecs import Kind
from tn_core.plugins import FIRST_PARTY, PluginHost, PluginWarning, default_host
from tn_core.signatures import written_arguments

__all__ = ["main", "parse", "plugins"]

_HOMES = {
    "fit": "tn-core",
    "refit": "tn-core",
    "plugins": "tn-core",
    "sample": "tn-eval",
    "impute": "tn-eval",
    "evaluate": "tn-eval",
    "hop": "tn-eval",
    "density": "tn-eval",
    "histogram": "tn-eval",
    "neighbours": "tn-eval",
}


def plugins() -> None:
    """Lists the installed plugins, what each offers, and why any was skipped."""
    host = default_host()
    host.names("commands")  # calls the hooks
    for plugin in host.plugins:
        state = f"skipped {plugin.problem}" if plugin.problem else "ok"
        print(f"{plugin.name}  ({plugin.distribution})  {state}")
        for kind, names in plugin.offers.items():
            print(f"    {kind}: {', '.join(names)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``tn``. Returns the exit status: 0, 1 for an error, 2 for wrong arguments, 130 when interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _show_warning
    try:
        host = default_host()
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview(host))
            return 0
        if argv[0] == "--version":
            for name in FIRST_PARTY:
                print(name, _version(name))
            return 0
        command, rest = argv[0], argv[1:]
        if command in _HOMES and command not in host.names("commands"):
            home = _HOMES[command]
            raise UserError(f"the command {command!r} comes with {home}: python -m pip install {home}")
        function = host.get("commands", command)
        arguments = parse(command, function, rest, host)
        if arguments is not None:
            function(**arguments)
        return 0
    except _WrongArguments as error:
        print(f"tn: error: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"tn: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader went away; keep Python from complaining when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _WrongArguments(UserError):
    """An argument is unknown, missing or of the wrong type."""


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, PluginWarning):
        print(f"tn: warning: {message}", file=sys.stderr)
    elif issubclass(category, UserWarning):
        print(f"tn: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _overview(host: PluginHost) -> str:
    lines = ["usage: tn COMMAND [options]", "", "Generative models with tensor-network priors.", "", "commands:"]
    for name in host.names("commands"):
        try:
            doc = (inspect.getdoc(host.get("commands", name)) or "").partition("\n")[0]
        except UserError as error:
            doc = f"not available: {error}"
        lines.append(f"  {name:<12} {doc}")
    lines += ["", "tn COMMAND --help shows a command's options; tn --version the packages' versions."]
    return "\n".join(lines)


def parse(command: str, function: Callable[..., Any], argv: Sequence[str], host: PluginHost) -> dict[str, Any] | None:
    """Turns the arguments of one command into those of its function.

    Returns:
        The arguments, components as nested mappings; None if only help or the config was asked for.

    Raises:
        UserError: if an argument is wrong.
    """
    switches = {f"--{name}" for name, p in inspect.signature(function).parameters.items() if p.annotation is bool}
    tokens = _with_config(argv, switches)
    # taken out by hand: jsonargparse has its own idea of an option of this name
    wants_config = "--print_config" in tokens
    tokens = [token for token in tokens if token != "--print_config"]
    wants_help = any(token in ("-h", "--help") for token in tokens)
    pairs = dict(_pairs(tokens))
    top = components_of(function)
    for key, name in pairs.items():  # before anything heavy is imported
        guess = f"{key.rpartition('.')[2]}s"  # --model.prior names one of the priors
        kind = top[key].kind if key in top else next((k for k in get_args(Kind) if k == guess), None)
        if kind is not None and key.partition(".")[0] in top:
            host.check(kind, name)

    # without a name on the line, help shows the command's own options and need not import anything heavy
    deep = not wants_help or any(key in pairs for key in top)
    if deep and not wants_help:
        for key, component in top.items():
            _check_options(key, component, pairs, host, command)
        shallow, _ = _parser(command, function, top, pairs, host, deep=False)
        _read(command, shallow, _own(tokens, top))
    parser, named = _parser(command, function, top, pairs, host, deep)
    if wants_help:
        parser.print_help()
        return None
    # --model VAE is short for --model.name VAE
    short = {f"--{key}": f"--{key}.name" for key in named}
    tokens = ["=".join([short.get(head, head), *tail]) for head, *tail in (token.split("=", 1) for token in tokens)]
    found = _read(command, parser, tokens)
    for key, written in named.items():
        part = found
        for step in key.split("."):
            part = part[step]
        # what hides behind **keywords is a guess: pass it on only if it was asked for
        for argument in set(part) - written - {"name"}:
            if f"{key}.{argument}" not in pairs:
                del part[argument]
    del found["config"]
    del found["print_config"]
    if wants_config:
        import yaml

        print(yaml.safe_dump(json.loads(json.dumps(found, default=str)), sort_keys=False), end="")
        return None
    return found


def _parser(
    command: str,
    function: Callable[..., Any],
    top: Mapping[str, Component],
    pairs: Mapping[str, str],
    host: PluginHost,
    deep: bool,
) -> tuple[Any, dict[str, set[str]]]:
    """A command's parser, and the keys of its components with the arguments that their signatures name.

    ``deep`` imports the components and adds their options.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"tn {command}", description=_summary(function), exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", help="a YAML file with any of these options; the command line goes first")
    parser.add_argument("--print_config", action="store_true", help="print the options as YAML and stop")
    parser.add_function_arguments(function, skip=set(top), as_positional=True)
    named: dict[str, set[str]] = {}
    for key, component in top.items():
        _add_component(parser, key, component, pairs, host, deep, named)
    return parser, named


def _read(command: str, parser: Any, tokens: Sequence[str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = parser.parse_args(tokens).as_dict()
    except ArgumentError as error:
        raise _WrongArguments(f"tn {command}: {_one_line(str(error), parser)}") from None
    return found


def _own(tokens: Sequence[str], top: Mapping[str, Component]) -> list[str]:
    """The tokens without the components' options."""
    kept: list[str] = []
    dropping = False
    for token in tokens:
        if token.startswith("--"):
            dropping = token[2:].partition("=")[0].partition(".")[0] in top
        if not dropping:
            kept.append(token)
    return kept


def _check_options(key: str, component: Component, pairs: Mapping[str, str], host: PluginHost, command: str) -> None:
    """Checks the names of a component's options, as far as its source says them, before importing it."""
    name = pairs.get(key, pairs.get(f"{key}.name", component.default))
    arguments = None if name is None else written_arguments(host.target(component.kind, name))
    if arguments is None:
        return
    for option in pairs:
        argument = option.removeprefix(f"{key}.").partition(".")[0].removesuffix("+")
        if option.startswith(f"{key}.") and argument not in {"name", "help", *arguments}:
            near = difflib.get_close_matches(argument, arguments, n=1, cutoff=0.6)
            hint = f"did you mean --{key}.{near[0]}?" if near else f"it has {', '.join(arguments)}"
            raise _WrongArguments(f"tn {command}: {name} has no argument {argument!r}; {hint}")
    for argument, inner in arguments.items():
        if inner is not None:
            _check_options(f"{key}.{argument}", inner, pairs, host, command)


def _summary(function: Callable[..., Any]) -> str:
    """The docstring up to its arguments."""
    return (inspect.getdoc(function) or "").partition("Arguments:")[0].strip()


def _add_component(
    parser: Any,
    key: str,
    component: Component,
    pairs: Mapping[str, str],
    host: PluginHost,
    deep: bool,
    named: dict[str, set[str]],
) -> None:
    """Adds the options of a component and of the components in it; collects in ``named`` what they are called."""
    named[key] = set()
    name = pairs.get(key, pairs.get(f"{key}.name", component.default))
    known = ", ".join(host.names(component.kind))
    parser.add_argument(f"--{key}.name", default=name, required=name is None, help=f"or just --{key} NAME: {known}")
    if name is None or not deep:
        return
    target = host.get(component.kind, name)
    inner = components_of(target)
    named[key] = set(inspect.signature(target).parameters)
    skip = {*inner, *(named[key] & set(PROVIDED))}
    if inspect.isclass(target):
        parser.add_class_arguments(target, key, skip=skip)
    else:
        parser.add_function_arguments(target, key, skip=skip)
    for inner_key, inner_component in inner.items():
        _add_component(parser, f"{key}.{inner_key}", inner_component, pairs, host, deep, named)


def _one_line(message: str, parser: Any) -> str:
    """Squeezes an error into a line and adds the nearest options to an unknown one."""
    message = " ".join(message.split())
    if message.lower().startswith("unrecognized arguments"):
        known = [option for action in parser._actions for option in action.option_strings]
        wrong = message.partition(":")[2].split()[0].partition("=")[0]
        near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6)
        message += f"; did you mean {' or '.join(near)}?" if near else "; --help lists what is known"
    return message


def _pairs(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options that are followed by a value, without their dashes."""
    for token, following in zip(tokens, [*tokens[1:], "--"], strict=False):
        if token.startswith("--"):
            option, equals, value = token[2:].partition("=")
            if equals or not following.startswith("--"):
                yield option, value if equals else following


def _with_config(argv: Sequence[str], switches: Set[str]) -> list[str]:
    """Puts what config files say before the other options; dashes inside an option's name become underscores.

    A switch without a value is true. Going on with a run (``--resume``) reads that run's options first.
    """
    first: list[str] = []
    rest: list[str] = []
    waiting = list(argv)
    while waiting:
        token = waiting.pop(0)
        option, equals, value = token.partition("=")
        option = "--" + option[2:].replace("-", "_") if option.startswith("--") else option
        if option in switches and not equals:
            bare = not waiting or waiting[0].lower() not in ("true", "false")
            rest.append(f"{option}={'true' if bare else waiting.pop(0)}")
        elif option == "--config":
            if not equals and not waiting:
                raise _WrongArguments("--config needs a file")
            first += _flatten(_read_config(value if equals else waiting.pop(0)))
        else:
            rest.append(option + equals + value)
    pairs = dict(_pairs(rest))
    if "--resume" in switches and pairs.get("resume") == "true":
        run = Path(pairs.get("out", "")) / "run.yaml"
        if "out" in pairs and run.is_file():
            first += _flatten(_read_config(str(run)))
    return first + rest


def _read_config(path: str) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the config file {path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"the config file {path} must hold a mapping from options to values")
    return content


def _flatten(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    tokens = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            tokens += _flatten(value, f"{prefix}{key}.")
        else:
            tokens.append(f"--{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return tokens
