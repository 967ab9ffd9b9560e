"""Distributions made up on the spot, as an installer would leave them."""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

__all__ = ["Install", "write_distribution"]

Install = Callable[..., list[EntryPoint]]


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
