"""``tn hop``, ``tn interpolate``, ``tn density`` and ``tn histogram``: pictures of what a trained model has learned.

References:
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, sections 6.2 and 6.3.
    Lavda, Gregorová and Kalousis, Improving VAE generations of multimodal data through data-dependent conditional
    priors (CP-VAE), 2019, section 5.1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tn_core.components import build
from tn_core.errors import MOST_SEED, UserError, check_range
from tn_core.plugins import default_host
from tn_core.protocols import Data, Encodes, Interval, to_float
from tn_core.storage import labels_of, load_model, read_config
from tn_eval.commands import Allowed, check_offers, draw, label_evidence, parse_labels, picture_path

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["density", "histogram", "hop", "interpolate", "mode_hops"]

_CELLS = 200  # along each side of an exact density
_BINS = 80  # along each side of a histogram of samples


def hop(
    run: str,
    *,
    dimensions: int = 5,
    steps: int = 10,
    count: int = 8,
    labels: str | None = None,
    seed: int = 0,
    out: str | None = None,
) -> None:
    """Walks through a model's latents from mode to mode and writes what it meets as a picture, a row a walk.

    A walk starts at a sample of the prior. Each step draws a few dimensions anew, given all the others: the picture
    changes in a few features, and every picture is as good a sample of the prior as the first. Each step's choice of
    dimensions is random, and the same for all rows. The prior must have exact conditionals, as tensor rings and trains
    do.

    Arguments:
        run: the folder of the trained model, a model of images.
        dimensions: how many latents each step draws anew.
        steps: the images of a walk, the first one included.
        count: the number of walks.
        labels: what holds all along the walks, such as digit=3 or hair=!blond,glasses=yes.
        seed: of the walks.
        out: the picture; not given: hops.png in the run's folder.

    Raises:
        UserError: if a label or a value is unknown, or the model cannot do it.
    """
    check_range(1, dimensions=dimensions, steps=steps, count=count)
    check_range(0, MOST_SEED, seed=seed)
    config = read_config(Path(run))
    path = picture_path(out, Path(run) / "hops.png")
    shape = _shape(config)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"tn hop needs a model of images, of shape (1 or 3, height, width); this one's have {shape}")
    allowed = parse_labels(labels or "", labels_of(config.get("labels", {})))
    import torch

    model, _ = load_model(Path(run), default_host())
    decode = _decoder(model, config)
    with torch.no_grad():
        p = _prior(model, config, allowed)
        torch.manual_seed(seed)
        try:
            z = mode_hops(p, steps, count, dimensions)
        except ValueError as error:
            raise UserError(str(error)) from None
        images = decode(z.transpose(0, 1).flatten(0, 1))  # walk by walk
    from tn_eval.pictures import save_grid

    save_grid(images, path, steps)
    print(f"hops: {path}")


def interpolate(
    run: str,
    *,
    way: Literal["linear", "spherical"] = "spherical",
    steps: int = 10,
    count: int = 8,
    seed: int = 0,
    data_root: str = "data",
    out: str | None = None,
) -> None:
    """Writes a picture of ways through a model's latents from one test item to another, a row each.

    Arguments:
        run: the folder of the trained model, a model of images.
        way: "linear" or "spherical".
        steps: the images of a row, both ends, as the model reconstructs them, included.
        count: how many rows.
        seed: of the pairs.
        data_root: where data sets keep their files.
        out: the picture; not given: interpolation.png in the run's folder.

    Raises:
        UserError: if the model cannot do it or a file cannot be read or written.
    """
    check_range(2, steps=steps)
    check_range(1, count=count)
    check_range(0, MOST_SEED, seed=seed)
    path = picture_path(out, Path(run) / "interpolation.png")
    config = read_config(Path(run))
    shape = _shape(config)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"tn interpolate needs a model of images, of shape (1 or 3, height, width); not of {shape}")
    host = default_host()
    import torch

    from tn_eval.interpolation import between
    from tn_eval.pictures import save_grid

    x = build(config["data"], "datasets", host, root=data_root).split("test").x
    model, _ = load_model(Path(run), host)
    check_offers(model, "encode", config)
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(len(x), (2, count), generator=generator)
    with torch.no_grad():
        first, last = (model.encode(to_float(x[k])).unsqueeze(1) for k in pairs)
        z = between(first, last, torch.linspace(0, 1, steps).unsqueeze(1), way)
        images = model.decode(z.flatten(0, 1))
    save_grid(images, path, steps)
    print(f"interpolations: {path}")


def density(
    run: str,
    *,
    dims: str = "0,1",
    labels: str | None = None,
    samples: int = 100_000,
    points: int = 2000,
    data_root: str | None = None,
    seed: int = 0,
    out: str | None = None,
) -> None:
    """Writes a picture of two dimensions of a model's prior: their density, and where the test data lie.

    The density is exact where the prior offers exact marginals, as tensor rings and trains do; elsewhere it is a
    histogram of samples. The picture's title says which. Points are the posterior means of test items, if the model
    encodes and the data can be read.

    Arguments:
        run: the folder of the trained model.
        dims: two of the latents, counted from 0, such as 0,1.
        labels: the density given these, and test items that have them, such as digit=3 or hair=!blond,glasses=yes.
        samples: samples of the histogram, where there are no exact marginals.
        points: at most so many test items, always the same random choice; 0 for none.
        data_root: where data sets keep their files; not given: data, and no points if they are not there.
        seed: of the samples.
        out: the picture; not given: density.png in the run's folder.

    Raises:
        UserError: if a label, a value or a dimension is unknown, or the model cannot do it.
    """
    check_range(1, samples=samples)
    check_range(0, points=points)
    check_range(0, MOST_SEED, seed=seed)
    pair = _pair(dims)
    config = read_config(Path(run))
    path = picture_path(out, Path(run) / "density.png")
    allowed = parse_labels(labels or "", labels_of(config.get("labels", {})))
    _check_matplotlib()
    import torch

    model, _ = load_model(Path(run), default_host())
    with torch.no_grad():
        p = _prior(model, config, allowed)
        _check_dims(pair, p.event_shape[0])
        means = _posterior_means(model, config, allowed, points, data_root) if points else None
        means = None if means is None else means[:, pair]
        torch.manual_seed(seed)
        exact = hasattr(p, "marginal")
        two = p.marginal(pair) if exact else p
        drawn = two.sample((10_000 if exact else samples,))
        drawn = drawn if exact else drawn[:, pair]
        groups = {"the prior's samples": drawn} | ({} if means is None else {"the posterior means": means})
        _check_finite(groups)
        low, high = _window(list(groups.values()))
        values = _on_grid(two, low, high) if exact else _histogram(drawn, low, high)
    given = f" | {labels}" if allowed else ""
    names = (f"z_{pair[0]}", f"z_{pair[1]}")
    how = "exact" if exact else f"histogram of {samples:,} samples"
    from tn_eval.pictures import save_density

    save_density(
        values,
        low,
        high,
        path,
        title=f"p({names[0]}, {names[1]}{given}), {how}",
        axes=names,
        points=means,
        points_are="" if means is None else f"posterior means of {len(means):,} test items",
    )
    print(f"density: {path} ({how})")


def histogram(
    run: str,
    *,
    count: int = 10_000,
    bins: int = 80,
    data_root: str = "data",
    seed: int = 0,
    out: str | None = None,
) -> None:
    """Writes histograms of the test data and of a model's samples, side by side, for data of one or two numbers.

    Samples are what the model's ``sample`` gives: of a VAE the decoder's means, without the noise of its likelihood.

    Arguments:
        run: the folder of the trained model.
        count: the number of samples.
        bins: of each histogram, a dimension.
        data_root: where data sets keep their files.
        seed: of the samples.
        out: the picture; not given: histogram.png in the run's folder.

    Raises:
        UserError: if the data have more than two numbers an item, or the model cannot sample.
    """
    check_range(1, count=count, bins=bins)
    check_range(0, MOST_SEED, seed=seed)
    config = read_config(Path(run))
    path = picture_path(out, Path(run) / "histogram.png")
    shape = _shape(config)
    if shape not in ((1,), (2,)):
        raise UserError(f"tn histogram is for data of shape (1,) or (2,), numbers or points; these have shape {shape}")
    _check_matplotlib()
    import torch

    data: Data = build(config["data"], "datasets", default_host(), root=data_root)
    test = data.split("test")
    model, _ = load_model(Path(run), default_host())
    check_offers(model, "sample", config)
    torch.manual_seed(seed)
    with torch.no_grad():
        drawn = draw(model, count, None)
    _check_finite({"the model's samples": drawn})
    from tn_eval.pictures import save_histograms

    groups = {
        f"{len(test):,} test items": to_float(test.x),
        f"{len(drawn):,} samples of {config['model']['name']}": drawn,
    }
    save_histograms(groups, path, bins)
    print(f"histogram: {path}")


def mode_hops(p: Any, steps: int, count: int, dimensions: int) -> "Tensor":
    """Walks that leave a distribution as it is: TRIP's mode hopping (section 6.3).

    A walk starts at a sample. Each further step chooses ``dimensions`` of the dimensions at random, the same for all
    walks, and draws them from their distribution given the others (Gibbs sampling, in random blocks). Draws from
    torch's global generator.

    Arguments:
        p: a distribution with batch shape () and event shape (features,), and a method ``condition(values, mask)``:
            values (batch, features), mask bool (features,), True where a dimension is given; it returns the
            distribution of the other dimensions, in their order.
        steps: the states of a walk, its start included.
        count: the number of walks.
        dimensions: how many dimensions each step draws anew, from 1 to all of them.

    Returns:
        (steps, count, features). Given the choices of dimensions the walks are independent, and each of their states
        has the distribution p.

    Raises:
        ValueError: if a number is out of its range, or p has no exact conditionals.
    """
    import torch

    if steps < 1 or count < 1:
        raise ValueError(f"steps and count must be at least 1, got {steps} and {count}")
    if not hasattr(p, "condition"):
        raise ValueError(
            f"{type(p).__name__} has no exact conditionals (no method condition), so dimensions cannot be drawn given "
            "the others; tensor-ring and tensor-train priors have them"
        )
    features = p.event_shape[0]
    if not 1 <= dimensions <= features:
        raise ValueError(f"dimensions must be from 1 to {features}, the number of latents; got {dimensions}")
    z: Tensor = p.sample((count,))
    states = [z]
    for _ in range(steps - 1):
        given = torch.ones(features, dtype=torch.bool, device=z.device)
        given[torch.randperm(features)[:dimensions].to(z.device)] = False
        z = z.clone()
        z[:, ~given] = p.condition(z, given).sample()
        states.append(z)
    return torch.stack(states)


def _shape(config: Mapping[str, Any]) -> tuple[Any, ...]:
    shape = config.get("shape")
    return tuple(shape) if isinstance(shape, Sequence) else ()


def _decoder(model: Any, config: Mapping[str, Any]) -> Any:
    """What turns latents into data; GANs, which do not encode either, call it ``generate``."""
    for method in ("decode", "generate"):
        if hasattr(model, method):
            return getattr(model, method)
    raise UserError(f"{config['model']['name']} turns no latents into data: it has no method decode or generate")


def _prior(model: Any, config: Mapping[str, Any], allowed: Allowed) -> Any:
    """What the model's prior says of the latents, given these labels: batch shape (), event shape (features,)."""
    prior = getattr(model, "prior", None)
    if not callable(prior):
        raise UserError(f"{config['model']['name']} has no prior to look at")
    evidence = label_evidence(allowed, labels_of(config.get("labels", {})))
    if evidence is not None and hasattr(model, "sample"):
        draw(model, 1, evidence)  # a model that does not learn from labels says so here, whatever its prior can do
    try:
        p = prior() if evidence is None else prior(evidence)
    except ValueError as error:
        raise UserError(str(error)) from None
    if len(p.batch_shape) != 0 or len(p.event_shape) != 1:
        raise UserError(
            f"the prior {type(prior).__name__} must give a distribution over (features,), got batch shape "
            f"{tuple(p.batch_shape)} and event shape {tuple(p.event_shape)}"
        )
    return p


def _pair(dims: str) -> list[int]:
    """Reads ``0,1``."""
    try:
        pair = [int(part) for part in dims.split(",")]
    except ValueError:
        pair = []
    if len(pair) != 2 or pair[0] == pair[1] or min(pair) < 0:
        raise UserError(f"dims must be two different latents, counted from 0, such as 0,1; got {dims!r}")
    return pair


def _check_dims(pair: Sequence[int], features: int) -> None:
    if max(pair) >= features:
        raise UserError(f"dims must be from 0 to {features - 1}, the model has {features} latents; got {max(pair)}")


def _check_finite(groups: "Mapping[str, Tensor]") -> None:
    for name, values in groups.items():
        if not bool(values.isfinite().all()):
            raise UserError(f"{name} hold NaN or infinity: there is nothing to draw")


def _check_matplotlib() -> None:
    """Says before any work what to install, if need be."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"this picture needs {error.name}: python -m pip install {error.name}") from None


def _posterior_means(
    model: Any, config: Mapping[str, Any], allowed: Allowed, count: int, data_root: str | None
) -> "Tensor | None":
    """Posterior means (items, features) of test items with these labels; None if the model or the data do not allow it.

    Raises:
        UserError: if the user named the folder of the data, and they cannot be read from it.
    """
    import torch

    if not isinstance(model, Encodes):
        return None
    try:
        data: Data = build(config["data"], "datasets", default_host(), root=data_root or "data")
        test = data.split("test")
    except UserError as error:
        if data_root is not None:
            raise
        print(f"no points of test data: {error}")
        return None
    fits = torch.ones(len(test), dtype=torch.bool)
    for j, name in enumerate(data.labels):
        values, wanted = data.labels[name], allowed.get(name)
        if wanted is None:
            continue
        if isinstance(values, Interval) and isinstance(wanted, float):  # near enough to be looked at
            fits &= (test.labels[:, j] - wanted).abs() <= (values.high - values.low) / 20
        else:
            fits &= torch.isin(test.labels[:, j], torch.tensor(wanted))
    items = fits.nonzero().flatten()
    chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:count]  # test sets may be sorted
    if not len(chosen):
        print("no points of test data: no test item has these labels")
        return None
    return torch.cat([model.encode(to_float(part)) for part in test.x[items[chosen]].split(500)])


def _window(groups: "Sequence[Tensor]") -> tuple[list[float], list[float]]:
    """The bounds of two dimensions to show: all of each group but a thousandth a side, and room round it."""
    import torch

    ends = torch.tensor([0.001, 0.999], dtype=torch.float64)
    quantiles = torch.stack([group.double().quantile(ends, 0) for group in groups])  # shape: (groups, ends, 2)
    low, high = quantiles[:, 0].amin(0), quantiles[:, 1].amax(0)
    margin = 0.15 * (high - low).clamp_min(1e-3)
    return (low - margin).tolist(), (high + margin).tolist()


def _centres(low: float, high: float, cells: int) -> "Tensor":
    """The middles of so many cells between two bounds, float64 (cells,)."""
    import torch

    return low + (torch.arange(cells, dtype=torch.float64) + 0.5) * ((high - low) / cells)


def _on_grid(two: Any, low: Sequence[float], high: Sequence[float]) -> "Tensor":
    """The density of a distribution over two numbers at the middles of the cells, (_CELLS, _CELLS)."""
    import torch

    x, y = (_centres(a, b, _CELLS) for a, b in zip(low, high, strict=True))
    grid = torch.cartesian_prod(x, y).to(two.sample())
    log_density = torch.cat([two.log_prob(part) for part in grid.split(4096)])
    return log_density.exp().unflatten(0, (_CELLS, _CELLS))


def _histogram(drawn: "Tensor", low: Sequence[float], high: Sequence[float]) -> "Tensor":
    """The share of samples (samples, 2) in each cell by its area, (_BINS, _BINS); some samples lie outside."""
    import numpy as np
    import torch

    x, y = drawn.double().numpy().T
    counts, _, _ = np.histogram2d(x, y, _BINS, [(low[0], high[0]), (low[1], high[1])])
    area = (high[0] - low[0]) * (high[1] - low[1]) / _BINS**2
    return torch.from_numpy(counts / (len(x) * area))
