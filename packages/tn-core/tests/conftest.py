"""What the tests share: a seed for each, one thread, and packages made up on the spot."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest
import torch
from tn_core_fakes import Install, write_distribution


@pytest.fixture(autouse=True)
def reproducible() -> None:
    """The same numbers in whichever order the tests run."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def untouched_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switches of whoever runs the tests do not reach them."""
    for name in ("TN_PLUGINS_STRICT", "TN_PLUGINS_DISABLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a made-up distribution for one test; returns its entry points, which know their distribution."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def installer(
        name: str, modules: Mapping[str, str], points: Mapping[str, str], version: str = "1.2.3"
    ) -> list[EntryPoint]:
        write_distribution(site, name, modules, points, version)
        importlib.invalidate_caches()
        return list(distribution(name).entry_points)

    yield installer
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", None)).startswith(str(site)):
            del sys.modules[module]
