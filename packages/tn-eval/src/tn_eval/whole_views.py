"""``tn wholes``, ``tn recompose``, ``tn bands`` and ``tn curves``: pictures of wholes made of sets of parts.

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020, figures 2 to 7.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tn_core.components import Component, Spec, build
from tn_core.errors import MOST_SEED, UserError, check_range
from tn_core.plugins import default_host
from tn_core.protocols import Simulates, SimulatesParts
from tn_core.storage import labels_of, load_model, read_config
from tn_eval.commands import check_offers, label_evidence, parse_labels, picture_path

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["bands", "curves", "recompose", "wholes"]


def wholes(
    *,
    data: Annotated[Spec, Component("datasets", "sines")],
    out: str = "wholes.png",
    count: int = 4,
    seed: int = 0,
    data_root: str = "data",
) -> None:
    """Writes a picture of a data set's wholes.

    Images: a row of wholes for each number of parts. Curves: wholes of as many parts as there may be, each beside the
    sum of its parts alone.

    Arguments:
        data: a simulated data set of wholes made of parts, such as sines or sites.
        out: the picture.
        count: how many wholes, of images how many a row.
        seed: of the wholes.
        data_root: where data sets keep their files.

    Raises:
        UserError: if the data set is of another kind or the file cannot be written.
    """
    check_range(1, count=count)
    check_range(0, MOST_SEED, seed=seed)
    path = picture_path(out, Path(out))
    source = _simulated(build(data, "datasets", default_host(), root=data_root), SimulatesParts)
    import torch

    from tn_eval.pictures import save_curves, save_grid

    generator = torch.Generator().manual_seed(seed)
    if len(source.shape) == 3:
        rows = [source.wholes(source.sets(count, size, generator), generator) for size in range(1, source.parts + 1)]
        save_grid(torch.cat(rows), path, count)
    else:
        y = source.sets(count, source.parts, generator)
        hidden = source.hidden(y, generator)
        x, alone = source.simulate(y, hidden), source.alone(y, hidden).sum(1)
        panels = [{"whole": x[k], "sum of the parts alone": alone[k]} for k in range(count)]
        save_curves(panels, path, columns=2)
    print(f"wholes: {path}")


def recompose(
    run: str,
    *,
    parts: int = 5,
    count: int = 4,
    seed: int = 0,
    out: str | None = None,
    data_root: str = "data",
) -> None:
    """Writes a picture of wholes that a model puts together part by part, each part's latents kept.

    Images: a column for each number of parts, the simulator's wholes first, then a row for each of the model's. Curves:
    a row for each part, what the model makes of it alone, and of it and all parts above it.

    Arguments:
        run: the folder of the trained model.
        parts: how many, of random categories.
        count: how many rows of images.
        seed: of parts and latents.
        out: the picture; not given: recompose.png in the run's folder.
        data_root: where data sets keep their files.

    Raises:
        UserError: if the model cannot do it or the file cannot be written.
    """
    check_range(1, parts=parts, count=count)
    check_range(0, MOST_SEED, seed=seed)
    path = picture_path(out, Path(run) / "recompose.png")
    config = read_config(Path(run))
    source = _simulated(build(config["data"], "datasets", default_host(), root=data_root), SimulatesParts)
    import torch

    from tn_eval.pictures import save_curves, save_grid

    model, _ = load_model(Path(run), default_host())
    check_offers(model, "compose", config)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    y = source.sets(1, parts, generator)
    images = len(source.shape) == 3
    whole = model.compose(y[0], count if images else 1)
    upto = [model.decode(model.remove(whole, range(size, parts))) for size in range(1, parts + 1)]
    if images:
        hidden = source.hidden(y, generator)
        width = y.shape[1] // parts
        truth = [
            source.simulate(y[:, : size * width], hidden._replace(parts=hidden.parts[:, :size]))
            for size in range(1, parts + 1)
        ]
        rows = [torch.cat(truth), *(torch.stack([x[k] for x in upto]) for k in range(count))]
        save_grid(torch.cat(rows), path, parts)
    else:
        names = [next(iter(source.labels.values()))[int(c)] for c in y.reshape(parts, -1)[:, 0]]
        panels = []
        for k, name in enumerate(names):
            alone = model.decode(model.remove(whole, [j for j in range(parts) if j != k]))
            panels += [{f"part {name}": alone[0]}, {f"whole of {k + 1}": upto[k][0]}]
        save_curves(panels, path, columns=2)
    print(f"recomposed: {path}")


def bands(
    run: str,
    *,
    labels: str | None = None,
    samples: int = 2000,
    low: float = 0.05,
    seed: int = 0,
    out: str | None = None,
    data_root: str = "data",
) -> None:
    """Writes a picture of the distribution of the wholes of one set of parts: medians, and bands round them.

    Of the model, of the simulator that the data come from, and of sums of parts that are drawn independently, each in
    circumstances of its own, which is what one would do without a model.

    Arguments:
        run: the folder of the trained model, a model of curves.
        labels: the set, such as "part 1=3,part 2=7"; not given: a random one of as many parts as the data have, which
            the training data do not have if they hold out any.
        samples: draws of each.
        low: what share of the draws lies below a band, and as many above it.
        seed: of everything random.
        out: the picture; not given: bands.png in the run's folder.
        data_root: where data sets keep their files.

    Raises:
        UserError: if a label or a value is unknown, the model cannot do it or the file cannot be written.
    """
    check_range(2, samples=samples)
    check_range(0, MOST_SEED, seed=seed)
    if not 0 < low < 0.5:
        raise UserError(f"low must be between 0 and 0.5, got {low}")
    path = picture_path(out, Path(run) / "bands.png")
    config = read_config(Path(run))
    source = _simulated(build(config["data"], "datasets", default_host(), root=data_root), Simulates)
    if len(source.shape) != 1:
        raise UserError(f"tn bands needs a model of curves; the wholes of this one have the shape {source.shape}")
    import torch

    from tn_eval.pictures import save_bands

    model, _ = load_model(Path(run), default_host())
    check_offers(model, "quantiles", config)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    y = _one_set(model, source, labels, config, generator)
    levels = [low, 0.5, 1 - low]
    sets = y.expand(samples, -1)
    quantiles = torch.tensor(levels)
    save_bands(
        {
            "simulator": source.wholes(sets, generator).quantile(quantiles, 0),
            "model": model.quantiles(y, levels, samples),
            "sum of independent parts": source.sums(sets, generator).quantile(quantiles, 0),
        },
        path,
        title=f"medians, and {100 * (1 - 2 * low):g} % of {samples} draws",
    )
    print(f"bands: {path}")


def curves(
    run: str,
    *,
    names: str | None = None,
    unit: Literal["nats", "bits"] = "nats",
    scale: Literal["linear", "log", "symlog"] = "linear",
    out: str | None = None,
) -> None:
    """Writes a picture of what a model logged in the course of its training.

    Arguments:
        run: the folder of the trained model.
        names: which, such as divergence_parts,divergence_whole; not given: all.
        unit: bits: what is logged, in nats, divided by log 2.
        scale: of the upward axis.
        out: the picture; not given: curves.png in the run's folder.

    Raises:
        UserError: if there is no history or it does not have a name, or the file cannot be written.
    """
    path = picture_path(out, Path(run) / "curves.png")
    file = Path(run) / "history.jsonl"
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}, what tn fit writes: {error}") from None
    logged = [name for name in (lines[0] if lines else {}) if name not in ("epoch", "seconds")]
    chosen = names.split(",") if names else logged
    for name in chosen:
        if name not in logged:
            raise UserError(f"{file} has no {name!r}; it has {', '.join(logged) or 'nothing'}")
    import torch

    from tn_eval.pictures import save_curves

    factor = math.log(2) if unit == "bits" else 1.0
    panel = {name: torch.tensor([line[name] / factor for line in lines]) for name in chosen}
    save_curves([panel], path, columns=1, axes=("epoch", unit), scale=scale)
    print(f"curves: {path}")


def _simulated(data: Any, protocol: Any) -> Any:
    if not isinstance(data, protocol):
        raise UserError(
            f"it needs wholes made of parts from a simulator, as the data set sines has, not {type(data).__name__}"
        )
    return data


def _one_set(model: Any, source: Simulates, labels: str | None, config: Any, generator: "Generator") -> "Tensor":
    """The set that was asked for, or a random one."""
    if labels:
        known = labels_of(config["labels"])
        drawn: Tensor = model.schema.choose(label_evidence(parse_labels(labels, known), known), 1)
        return drawn[0]
    from tn_eval.wholes import new_set

    return new_set(source, source.parts, generator)
