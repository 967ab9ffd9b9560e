"""What is in the wheels, and that the floors of the packages are those that are tested."""

import tomllib
from importlib.metadata import distribution, requires
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tn-core", "tn-priors", "tn-vae", "tn-gan", "tn-compvae", "tn-eval", "tn-plugin-template")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_wheel_is_complete_and_holds_nothing_else(name: str) -> None:
    found = distribution(name)
    package = name.replace("-", "_")
    files = {str(file) for file in found.files or ()}
    assert f"{package}/py.typed" in files
    assert any(file.endswith("licenses/LICENSE") for file in files)
    tops = {file.partition("/")[0] for file in files}
    assert tops <= {package, f"{package}-{found.version}.dist-info", ".."}
    installed = Path(str(found.locate_file(f"{package}/__init__.py"))).resolve()
    assert ROOT / "packages" not in installed.parents
    sources = ROOT / ("examples" if name == "tn-plugin-template" else "packages") / name / "src"
    expected = {str(path.relative_to(sources)) for path in sources.rglob("*.py")}
    assert {file for file in files if file.endswith(".py")} == expected


@pytest.mark.parametrize("name", PACKAGES)
def test_siblings_are_pinned_to_compatible_versions(name: str) -> None:
    for text in requires(name) or ():
        requirement = Requirement(text)
        if requirement.name.startswith("tn-"):
            assert {str(part) for part in requirement.specifier} == {">=0.1", "<0.2"}, text


def test_the_floors_are_the_tested_versions() -> None:
    """Every ``>=`` in the packages' pyproject.toml agrees with constraints/oldest.txt, and nothing is missing there."""
    lines = (ROOT / "constraints" / "oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    floors: dict[str, Version] = {}
    for file in sorted((ROOT / "packages").glob("*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        extras = project.get("optional-dependencies", {}).values()
        for text in chain(project["dependencies"], *extras):
            requirement = Requirement(text)
            if requirement.name.startswith("tn-"):
                continue
            (lower,) = (part for part in requirement.specifier if part.operator == ">=")
            floor = Version(lower.version)
            assert floors.setdefault(requirement.name, floor) == floor, f"{file}: {text} has two floors"
    assert floors == {name: Version(pin) for name, pin in pins.items()}
