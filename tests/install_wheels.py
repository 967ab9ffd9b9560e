"""Builds wheels of the packages and of the plugin template and installs them, not editable, where this runs.

Needs uv. Usage: python tests/install_wheels.py FOLDER, which takes the wheels and must be new or empty.
"""

import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"tn_core": "[train]"}


def main() -> None:
    """Builds and installs."""
    folder = Path(sys.argv[1])
    uv = find_uv_bin()
    for source in [*sorted((ROOT / "packages").iterdir()), ROOT / "examples" / "tn-plugin-template"]:
        if (source / "pyproject.toml").is_file():
            subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", folder, source], check=True)
    wheels = sorted(folder.glob("*.whl"))
    names = [wheel.name.partition("-")[0] for wheel in wheels]
    install = [uv, "pip", "install", "--python", sys.executable]
    # uv knows a wheel by its name and version: what an earlier build left must go
    install += [f"--reinstall-package={name.replace('_', '-')}" for name in names]
    install += [f"{name}{EXTRAS.get(name, '')} @ {wheel.as_uri()}" for name, wheel in zip(names, wheels, strict=True)]
    subprocess.run(install, check=True)


if __name__ == "__main__":
    main()
