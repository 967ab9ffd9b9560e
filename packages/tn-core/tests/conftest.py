"""What the tests share: a seed for each, one thread, and packages made up on the spot."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest
import torch

Install = Callable[..., list[EntryPoint]]


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


def write_distribution(
    site: Path, name: str, modules: Mapping[str, str], points: Mapping[str, str], version: str = "1.2.3"
) -> None:
    """Writes a distribution as an installer leaves it: modules and a dist-info folder with entry points."""
    for module, source in modules.items():
        path = site / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[tn]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))


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
