"""Pictures as PNG: grids of images, curves, densities of two latents, histograms."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tn_core.errors import UserError
from tn_core.storage import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_bands", "save_curves", "save_density", "save_grid", "save_histograms"]


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
    with _writing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def save_density(
    density: Tensor,
    low: Sequence[float],
    high: Sequence[float],
    path: Path,
    *,
    title: str,
    axes: tuple[str, str],
    points: Tensor | None = None,
    points_are: str = "",
) -> None:
    """Writes a density of two dimensions as a map of colours, perhaps with points on it.

    Arguments:
        density: (cells of the first dimension, cells of the second), a value for each cell, not negative.
        low: the lower bounds of the two dimensions.
        high: the upper bounds.
        path: a .png file.
        title: what the picture shows.
        axes: the names of the two dimensions.
        points: (points, 2), drawn over the map.
        points_are: what the points are, for the legend.

    Raises:
        UserError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.6), dpi=150, layout="constrained")
    plane = figure.subplots()
    extent = (low[0], high[0], low[1], high[1])
    cells = density.double().numpy().T  # rows are the second dimension, from below
    image = plane.imshow(cells, origin="lower", extent=extent, aspect="auto", cmap="magma", vmin=0.0)
    figure.colorbar(image, ax=plane, label="density")
    if points is not None:
        x, y = points.double().numpy().T
        plane.scatter(x, y, s=3, color="deepskyblue", alpha=0.5, linewidths=0, label=points_are)
        plane.set_xlim(low[0], high[0])
        plane.set_ylim(low[1], high[1])
        plane.legend(loc="upper right", fontsize="small", markerscale=3)
    # names of labels may hold any sign: they are no formulas
    plane.set_title(title, fontsize="medium", parse_math=False)
    plane.set_xlabel(axes[0])
    plane.set_ylabel(axes[1])
    _save(figure, path)


def save_histograms(groups: Mapping[str, Tensor], path: Path, bins: int) -> None:
    """Writes histograms side by side, with the same bins and the same axes.

    Arguments:
        groups: titles, each with its numbers (items, 1) or points (items, 2), a map of colours on a logarithmic scale.
        path: a .png file.
        bins: how many a dimension, over the range of all the numbers together.

    Raises:
        UserError: if the file cannot be written.
    """
    import numpy as np
    from matplotlib.figure import Figure

    values = {title: numbers.double().numpy() for title, numbers in groups.items()}
    edges = [np.histogram_bin_edges(column, bins) for column in np.concatenate(list(values.values())).T]
    figure = Figure(figsize=(4.2 * len(values), 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(values), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (title, numbers) in zip(panels, values.items(), strict=True):
        if len(edges) == 1:
            heights, _ = np.histogram(numbers, edges[0], density=True)
            panel.stairs(heights, edges[0], fill=True)
        else:
            panel.hist2d(*numbers.T, bins=edges, density=True, norm="log", cmap="viridis")
        panel.set_title(title, fontsize="medium", parse_math=False)
        panel.set_xlabel("x" if len(edges) == 1 else "x_0")
    panels[0].set_ylabel("density" if len(edges) == 1 else "x_1")
    _save(figure, path)


def save_curves(
    panels: Sequence[Mapping[str, Tensor]],
    path: Path,
    columns: int,
    axes: tuple[str, str] = ("", ""),
    scale: str = "linear",
) -> None:
    """Writes curves, panel by panel, all with the same axes.

    Arguments:
        panels: for each the names of its curves and their values, (points,).
        path: a .png file.
        columns: panels in a row.
        axes: names of the two axes.
        scale: of the upward axis, as matplotlib calls it.

    Raises:
        UserError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.2, 3.6 if rows == 1 else 1.4 * rows), dpi=150, layout="constrained")
    planes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for plane, curves in zip(planes.flat, panels, strict=False):
        for name, values in curves.items():
            plane.plot(values.tolist(), label=name, linewidth=1)
        plane.set_yscale(scale)
        plane.legend(fontsize="x-small", loc="upper right")
    figure.supxlabel(axes[0], fontsize="medium")
    figure.supylabel(axes[1], fontsize="medium")
    _save(figure, path)


def save_bands(groups: Mapping[str, Tensor], path: Path, *, title: str) -> None:
    """Writes curves with bands round them, beside one another and with the same axes.

    Arguments:
        groups: names, each with lower ends, curve and upper ends, (3, points).
        path: a .png file.
        title: of the picture.

    Raises:
        UserError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(groups), 3.2), dpi=150, layout="constrained")
    planes = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    for plane, (name, (low, middle, high)) in zip(planes, groups.items(), strict=True):
        plane.fill_between(range(len(low)), low.tolist(), high.tolist(), alpha=0.3)
        plane.plot(middle.tolist(), linewidth=1)
        plane.set_title(name, fontsize="medium")
    figure.suptitle(title, fontsize="medium", parse_math=False)
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    """Draws a figure by a canvas of its own: matplotlib's global state, pyplot, is not touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _writing(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Gives a temporary file that takes the place of ``path`` at the end; what the disk refuses is a UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from None
