"""Reads the arguments of lazily imported targets from their source, so that a misspelt option is told at once.

Importing a model imports torch and Lightning, which takes seconds; parsing its source takes milliseconds.
"""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tn_core.components import Component

__all__ = ["written_arguments"]


def written_arguments(target: object) -> dict[str, Component | None] | None:
    """The arguments of ``"package.module:Name"``, each with its component marker if it has one.

    Returns:
        None where the source does not say: the target is no string, inherits its constructor, or takes any keyword.
    """
    if not isinstance(target, str):
        return None
    module, _, name = target.partition(":")
    try:
        spec = find_spec(module)  # imports the packages above the module, not the module
        assert spec is not None
        assert spec.origin is not None
        body = ast.parse(Path(spec.origin).read_text()).body
    except Exception:  # whatever is wrong with the module, importing it will tell
        return None
    found = next((n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name), None)
    if isinstance(found, ast.ClassDef):
        found = next((n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if found is None or found.args.kwarg is not None:
        return None
    arguments = [*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs]
    return {a.arg: _marker(a.annotation) for a in arguments if a.arg != "self"}


def _marker(annotation: ast.expr | None) -> Component | None:
    """The ``Component(kind, default)`` in an annotation."""
    for node in ast.walk(annotation) if annotation is not None else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Component":
            values: list[Any] = [
                a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)
            ]
            return Component(*values)
    return None
