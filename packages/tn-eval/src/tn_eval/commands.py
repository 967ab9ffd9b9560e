"""``tn sample``, ``tn impute`` and ``tn evaluate``: what one does with a trained model's folder."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tn_core.components import build
from tn_core.errors import MOST_SEED, UserError, check_range
from tn_core.plugins import default_host
from tn_core.protocols import Interval, Values, all_unknown, categorical_labels, is_known, to_float
from tn_core.storage import labels_of, load_model, read_config, write_text
from tn_eval.inception import find_inception

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Allowed",
    "check_offers",
    "draw",
    "evaluate",
    "impute",
    "label_evidence",
    "parse_labels",
    "picture_path",
    "sample",
]

Allowed = dict[str, list[int] | float]
"""For each label that anything is known of, the values that it may have, or a continuous one's value."""


def sample(
    run: str,
    *,
    labels: str | None = None,
    rows: str | None = None,
    count: int = 64,
    columns: int | None = None,
    out: str | None = None,
    seed: int = 0,
) -> None:
    """Draws samples from a trained model and writes them as a picture.

    Labels that are not named stay open. Values may be given as a set: hair=blond|brown, hair=!blond. A continuous label
    is given a number: brightness=0.2.

    Arguments:
        run: the folder of the trained model.
        labels: what to condition on, such as digit=3 or hair=!blond,glasses=yes.
        rows: the name of a label: one row of samples for each of its values, ten over the interval of a continuous one;
            or "clusters": one for each cluster of a model that has clusters.
        count: the number of samples; with ``rows``, of each row.
        columns: images in a row; not given: 10 at most, or ``count`` with ``rows``.
        out: the picture; not given: samples.png in the run's folder.
        seed: of the samples.

    Raises:
        UserError: if a label or a value is unknown, or the model cannot do it.
    """
    check_range(1, count=count, columns=columns)
    check_range(0, MOST_SEED, seed=seed)
    path = picture_path(out, Path(run) / "samples.png")
    config = read_config(Path(run))
    known = labels_of(config.get("labels", {}))
    allowed = parse_labels(labels or "", known)
    clusters = rows == "clusters" and rows not in known
    if rows is not None and rows not in known and not clusters:
        raise UserError(f"no label is called {rows!r}; known: {', '.join(known) or 'none'}")
    import torch

    model, _ = load_model(Path(run), default_host())
    check_offers(model, "sample", config)
    torch.manual_seed(seed)
    if clusters:
        if not hasattr(model, "clusters"):
            raise UserError(f"{config['model']['name']} has no clusters")
        drawn = [model.sample(count, cluster=k) for k in range(model.clusters)]
    else:
        groups = [allowed] if rows is None else [{**allowed, rows: v} for v in _every(known[rows])]
        drawn = [draw(model, count, label_evidence(group, known)) for group in groups]
    from tn_eval.pictures import save_grid

    save_grid(torch.cat(drawn), path, columns or (count if rows is not None else min(count, 10)))
    print(f"samples: {path}")


def impute(
    run: str,
    *,
    out: str | None = None,
    split: Literal["train", "test"] = "train",
    together: bool = False,
    data_root: str = "data",
    batch_size: int = 500,
) -> None:
    """Imputes the unknown labels of a data set and writes them as CSV.

    Each line is an item and a label with its likeliest value and the probability of that; of a continuous label the
    mean and, where the others have a probability, the standard deviation. In the test split all labels are taken to be
    unknown.

    Arguments:
        run: the folder of the trained model.
        out: the CSV file; not given: imputed.csv in the run's folder.
        split: whose labels.
        together: the values of an item's unknown categorical labels that are most probable together, and the
            probability of all of them, instead of each label's alone.
        data_root: where data sets keep their files.
        batch_size: items at a time.

    Raises:
        UserError: if the model cannot impute or the file cannot be written.
    """
    check_range(1, batch_size=batch_size)
    path = Path(run) / "imputed.csv" if out is None else Path(out)
    _check_parent(path)
    config = read_config(Path(run))
    import torch

    data = build(config["data"], "datasets", default_host(), root=data_root)
    part = data.split(split)
    model, _ = load_model(Path(run), default_host())
    check_offers(model, "complete" if together else "impute", config)
    observed = part.observed if split == "train" else all_unknown(part.labels)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["item", "label", "value", "probability"])
    names, first, right, judged = list(data.labels), 0, 0, 0
    continuous = torch.tensor([isinstance(values, Interval) for values in data.labels.values()])
    for x, y, truth in zip(*(t.split(batch_size) for t in (part.x, observed, part.labels)), strict=True):
        if together:
            best, log_p = model.complete(to_float(x), y)
            probability = log_p.exp().unsqueeze(1).expand_as(best)
        else:
            held = model.impute(to_float(x), y)
            found = [p.unbind(-1) if c else p.max(-1)[::-1] for p, c in zip(held, continuous, strict=True)]
            best, probability = (torch.stack(columns, 1) for columns in zip(*found, strict=True))
        unknown = ~is_known(y) & ~(best.isnan())  # what is imputed together leaves continuous labels open
        for i, j in unknown.nonzero().tolist():
            values = data.labels[names[j]]
            value = f"{best[i, j]:.4f}" if isinstance(values, Interval) else values[int(best[i, j])]
            writer.writerow([first + i, names[j], value, f"{probability[i, j]:.4f}"])
        judge = unknown & is_known(truth) & ~continuous
        right += int((best == truth)[judge].sum())
        judged += int(judge.sum())
        first += len(x)
    try:
        write_text(path, text.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from None
    print(f"imputed: {path}")
    if judged:
        print(f"right where the data set knows the hidden label: {100 * right / judged:.2f} % of {judged}")


def evaluate(
    run: str,
    *,
    metrics: list[str] | str | None = None,
    iwae_samples: int = 100,
    iwae_items: int = 1000,
    condition_items: int = 2000,
    samples: int = 10_000,
    features: Literal["classifier", "inception"] = "classifier",
    inception_weights: str | None = None,
    download: bool = False,
    seed: int = 0,
    data_root: str = "data",
    device: str = "auto",
) -> None:
    """Measures a trained model on the test items, prints the numbers and keeps them in metrics.json.

    Arguments:
        run: the folder of the trained model.
        metrics: which, such as elbo,fid; not given: all that the model offers the means for.
        iwae_samples: samples of the importance-weighted bound.
        iwae_items: test items it is measured on, always the same random choice.
        condition_items: samples drawn for the condition accuracy.
        samples: samples drawn for FID, KID, precision, recall and modes; compare figures of equally many.
        features: the network whose features FID and its like compare: the data set's classifier, or the published
            Inception.
        inception_weights: Inception's weights file; not given: the one in the cache.
        download: fetch Inception's weights to the cache if they are not there.
        seed: of everything random.
        data_root: where data sets keep their files.
        device: where the model computes: cpu, cuda, cuda:1; auto: a GPU if there is one.

    Raises:
        UserError: if a metric is unknown, an option is wrong, a file is missing, or nothing can be measured.
    """
    host = default_host()
    metrics = metrics.split(",") if isinstance(metrics, str) else metrics
    for name in metrics or ():
        host.check("metrics", name)
    check_range(1, iwae_samples=iwae_samples, iwae_items=iwae_items, condition_items=condition_items)
    check_range(2, samples=samples)
    check_range(0, MOST_SEED, seed=seed)
    if features != "inception" and (inception_weights is not None or download):
        raise UserError(
            "--inception-weights and --download are for the features of Inception: add --features inception"
        )
    config = read_config(Path(run))
    if features == "inception":
        find_inception(inception_weights, download)
    import torch

    from tn_eval.devices import OnDevice, find_device
    from tn_eval.metrics import Value

    place = find_device(device)
    data = build(config["data"], "datasets", host, root=data_root)
    data.split("test")
    model, _ = load_model(Path(run), default_host())
    seen_by = {
        "spec": config["data"],
        "features": features,
        "inception_weights": inception_weights,
        "download": download,
    }
    distances = {**seen_by, "samples": samples}
    options: dict[str, dict[str, Any]] = {
        "fid": distances,
        "conditional_fid": distances,
        "interpolation": distances,
        "reconstruction_fid": seen_by,
        "iwae": {"samples": iwae_samples, "items": iwae_items},
        "condition_accuracy": {"spec": config["data"], "items": condition_items},
        "modes": {"spec": config["data"], "samples": samples},
    }
    functions = {name: host.get("metrics", name) for name in metrics or host.names("metrics")}
    offered = {name: function for name, function in functions.items() if _offers(model, function, config)}
    for name in metrics or ():
        if name not in offered:
            raise UserError(f"{config['model']['name']} does not offer what the metric {name!r} needs")
    found = {}
    model = model if place.type == "cpu" else OnDevice(model, place)
    for name, function in offered.items():
        torch.manual_seed(seed)
        try:
            values = function(model, data, **options.get(name, {}))
        except ValueError as error:  # the model offers the method, but not for these data
            if metrics:
                raise UserError(f"{name}: {error}") from None
            print(f"{name}: not measured: {error}")
            continue
        for key, value in values.items():
            found[key] = value  # a plugin's may be plain numbers
            print(f"{key}: {value}", flush=True)
    if not found:
        raise UserError(f"nothing was measured: {config['model']['name']} offers nothing that a metric can use")
    path = Path(run) / "metrics.json"
    numbers = {k: v.as_dict() if isinstance(v, Value) else {"value": float(v)} for k, v in found.items()}
    content = {"seed": seed, "metrics": numbers}
    try:
        write_text(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from None
    print(f"metrics: {path}")


def parse_labels(text: str, known: Mapping[str, Values]) -> Allowed:
    """Reads ``digit=3`` or ``hair=!blond,brightness=0.2`` or ``digit=3|5``: for each label what is allowed.

    Raises:
        UserError: if a label or a value is unknown, or nothing is left of a label's values.
    """
    allowed: Allowed = {}
    for part in filter(None, text.split(",")):
        name, equals, wanted = part.partition("=")
        if name not in known or not equals:
            raise UserError(
                f"cannot read {part!r}: expected LABEL=VALUE with one of the labels {', '.join(known) or '-'}"
            )
        values = known[name]
        if isinstance(values, Interval):
            try:
                number = float(wanted)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise UserError(f"the label {name!r} is continuous: it takes a number, got {wanted!r}")
            allowed[name] = number
            continue
        negated = wanted.startswith("!")
        chosen = wanted.removeprefix("!").split("|")
        for value in chosen:
            if value not in values:
                listed = ", ".join(values[:20]) + (", ..." if len(values) > 20 else "")
                raise UserError(f"the label {name!r} has no value {value!r}; it has {listed}")
        allowed[name] = left = [i for i, value in enumerate(values) if (value in chosen) != negated]
        if not left:
            raise UserError(f"{part!r} rules out every value of {name!r}")
    return allowed


def label_evidence(allowed: Allowed, known: Mapping[str, Values]) -> "list[Tensor | None] | None":
    """What a model's ``sample`` takes: an entry a label, None where it stays open.

    Of a categorical label a bool mask of the values allowed, of a continuous one its value.
    """
    import torch

    if not allowed:
        return None
    evidence: list[Tensor | None] = []
    for name, values in known.items():
        wanted = allowed.get(name)
        if wanted is None:
            evidence.append(None)
        elif isinstance(values, Interval) or isinstance(wanted, float):
            evidence.append(torch.tensor(wanted))
        else:
            mask = torch.zeros(len(values), dtype=torch.bool)
            mask[wanted] = True
            evidence.append(mask)
    return evidence


def _every(values: Values) -> Sequence[list[int] | float]:
    """Every value of a categorical label; ten of a continuous one, evenly spaced."""
    if isinstance(values, Interval):
        return [values.low + (values.high - values.low) * k / 9 for k in range(10)]
    return [[v] for v in range(len(values))]


def draw(model: Any, count: int, evidence: "list[Tensor | None] | None") -> "Tensor":
    """Samples of a model, (count, *shape); what it refuses is the user's to put right.

    Raises:
        UserError: if the model cannot do it with this evidence.
    """
    try:
        drawn: Tensor = model.sample(count) if evidence is None else model.sample(count, evidence)
    except ValueError as error:
        raise UserError(str(error)) from None
    return drawn


def check_offers(model: Any, method: str, config: Mapping[str, Any]) -> None:
    """Raises a UserError if a model lacks a method, or for "impute" the labels."""
    if not hasattr(model, method):
        raise UserError(f"{config['model']['name']} cannot {method}: it has no method of that name")
    if method in ("impute", "complete") and not getattr(model, "has_labels", True):
        raise UserError(f"the prior {config['model']['prior']['name']} has no labels to impute")


def _offers(model: Any, function: Any, config: Mapping[str, Any]) -> bool:
    """Whether a model offers the protocol that a metric's first argument is annotated with."""
    import inspect
    from typing import get_type_hints

    first = next(iter(inspect.signature(function).parameters))
    protocol = get_type_hints(function).get(first, object)
    of_images = ("condition_accuracy", "conditional_fid", "fid", "interpolation", "reconstruction_fid")
    if function.__name__ in of_images and len(config["shape"]) != 3:
        return False  # their networks are for images
    labels = labels_of(config.get("labels", {})) if getattr(model, "has_labels", True) else {}
    if function.__name__ in ("calibration", "condition_accuracy", "conditional_fid"):
        labels = dict(categorical_labels(labels))
    uses_labels = function.__name__ in ("calibration", "condition_accuracy", "conditional_fid", "imputation")
    return isinstance(model, protocol) and (bool(labels) or not uses_labels)


def picture_path(out: str | None, default: Path) -> Path:
    """The picture to write, checked before any work.

    Arguments:
        out: what the user asked for, if anything.
        default: the file otherwise.

    Raises:
        UserError: if it is no .png file, or cannot be written.
    """
    path = default if out is None else Path(out)
    if path.suffix.lower() != ".png":
        raise UserError(f"the picture must be a .png file, got {path}")
    _check_parent(path)
    return path


def _check_parent(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder, a file is needed")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: the folder {path.parent} is not writable")
