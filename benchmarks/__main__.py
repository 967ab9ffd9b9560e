"""``python -m benchmarks chain [--device cuda] [--json FILE]``."""

import json
import platform
from datetime import date
from pathlib import Path
from typing import Any

import jsonargparse
import torch

from benchmarks import chain as chain_tables


def chain(
    device: str = "cpu",
    json_file: Path | None = None,
) -> None:
    pass
