"""Pictures: grids of images as PNG."""

from pathlib import Path

import torch
from torch import Tensor

from tn_core.errors import UserError
from tn_core.storage import replacing

__all__ = ["save_grid"]


def save_grid(images: Tensor, path: Path, columns: int, smallest: int = 32) -> None:
    """Writes images as a grid, whole or not at all.

    Arguments:
        images: (items, 1 or 3, height, width), floats in [0, 1]; row by row.
        path: a .png file.
        columns: images in a row.
        smallest: images with shorter sides are enlarged by a whole factor to at least this.

    Raises:
        UserError: if the images are no images or the file cannot be written.
    """
    from PIL import Image
    from torchvision.utils import make_grid

    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(f"a picture needs images (items, 1 or 3, height, width), got {tuple(images.shape)}")
    factor = max(1, -(-smallest // min(images.shape[2:])))
    large = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    grid = make_grid(large.clamp(0, 1), nrow=columns, padding=2, pad_value=1.0)
    pixels = (grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from None
