"""What is made once and kept: tensors in the folder TN_CACHE, or in ``~/.cache/tn``."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tn_core.errors import UserError
from tn_core.storage import replacing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["cache_folder", "cached_tensors"]


def cache_folder(kind: str) -> Path:
    """The folder for things of a kind; it need not exist."""
    return Path(os.environ.get("TN_CACHE", "~/.cache/tn")).expanduser() / kind


def cached_tensors(
    path: Path, make: "Callable[[], dict[str, Tensor]]", fits: "Callable[[dict[str, Tensor]], bool]"
) -> "dict[str, Tensor]":
    """Reads tensors from a safetensors file, or makes them and writes the file.

    Arguments:
        path: the file, in a folder that need not exist.
        make: makes the tensors; called where the file is not there, is cut short or is of another kind.
        fits: whether what the file holds has the right names and shapes.

    Raises:
        UserError: if the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        found = load_file(path)
        if fits(found):
            return found
    except (OSError, SafetensorError):
        pass
    made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(made, temporary)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {path}; set TN_CACHE to a folder that can be written: {error}") from None
    return made
