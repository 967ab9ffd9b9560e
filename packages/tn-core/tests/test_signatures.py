"""Arguments read from source are those that importing gives, and what cannot be read is left alone."""

import sys
from pathlib import Path

import pytest

from tn_core.components import Component, components_of
from tn_core.signatures import written_arguments

SOURCE = """
from typing import Annotated
from tn_core.components import Component

class Base:
    def __init__(self, rank: int) -> None: ...

class Model(Base):
    def __init__(self, first, /, prior: Annotated[object, Component("priors", default="TRIP")], *,
                 network: Annotated[object, Component("networks")], rank: int = 3) -> None: ...

class Inherits(Base):
    pass

class Anything:
    def __init__(self, rank: int, **more: int) -> None: ...

def function(rank: int, name: str = "x") -> None: ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with that source."""
    (tmp_path / "written_source.py").write_text(SOURCE)
    (tmp_path / "broken_source.py").write_text("def (")
    monkeypatch.syspath_prepend(tmp_path)
    return "written_source"


def test_what_is_written(module: str) -> None:
    assert written_arguments(f"{module}:Model") == {
        "first": None,
        "prior": Component("priors", "TRIP"),
        "network": Component("networks"),
        "rank": None,
    }
    assert written_arguments(f"{module}:function") == {"rank": None, "name": None}
    assert module not in sys.modules


@pytest.mark.parametrize("name", ["Inherits", "Anything", "Absent"])
def test_what_the_source_does_not_say(module: str, name: str) -> None:
    assert written_arguments(f"{module}:{name}") is None


@pytest.mark.parametrize("target", ["broken_source:X", "no_such_package.module:X", "no_such_module:X", dict])
def test_what_cannot_be_read(module: str, target: object) -> None:
    assert written_arguments(target) is None


def test_it_says_what_importing_says(module: str) -> None:
    from importlib import import_module

    written = written_arguments(f"{module}:Model")
    assert written is not None
    markers = {name: marker for name, marker in written.items() if marker is not None}
    assert markers == components_of(import_module(module).Model)
