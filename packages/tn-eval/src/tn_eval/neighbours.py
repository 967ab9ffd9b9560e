"""``tn neighbours``: samples beside the training images nearest to them, to see whether a model only remembers.

References:
    Goodfellow et al., Generative Adversarial Nets, 2014, figure 2, https://arxiv.org/abs/1406.2661
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tn_core.components import build
from tn_core.errors import MOST_SEED, UserError, check_range
from tn_core.plugins import default_host
from tn_core.protocols import Data, to_float
from tn_core.storage import labels_of, load_model, read_config
from tn_eval.commands import check_offers, draw, label_evidence, parse_labels, picture_path

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["nearest", "neighbours"]


def neighbours(
    run: str,
    *,
    count: int = 8,
    nearest_images: int = 7,
    by: Literal["pixels", "classifier", "inception"] = "pixels",
    labels: str | None = None,
    inception_weights: str | None = None,
    data_root: str = "data",
    seed: int = 0,
    out: str | None = None,
) -> None:
    """Draws samples and writes a picture of them, a row each: the sample, then the training images nearest to it.

    Arguments:
        run: the folder of the trained model, a model of images.
        count: the number of samples.
        nearest_images: training images beside each.
        by: what distances are measured in: pixels, or the features of the data set's classifier or of Inception.
        labels: what the samples are to have, such as digit=3 or hair=!blond,glasses=yes.
        inception_weights: Inception's weights file; not given: the one in the cache.
        data_root: where data sets keep their files.
        seed: of the samples.
        out: the picture; not given: neighbours.png in the run's folder.

    Raises:
        UserError: if a label, a value or a file is wrong, or the model cannot do it.
    """
    check_range(1, count=count, nearest_images=nearest_images)
    check_range(0, MOST_SEED, seed=seed)
    config = read_config(Path(run))
    path = picture_path(out, Path(run) / "neighbours.png")
    known = labels_of(config.get("labels", {}))
    allowed = parse_labels(labels or "", known)
    shape = tuple(config["shape"])
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"tn neighbours needs images, of shape (1 or 3, height, width); this model's have {shape}")
    import torch

    from tn_eval.features import get_extractor
    from tn_eval.pictures import save_grid

    data: Data = build(config["data"], "datasets", default_host(), root=data_root)
    train = data.split("train").x
    if nearest_images > len(train):
        raise UserError(f"there are {len(train)} training images, fewer than {nearest_images}")
    model, _ = load_model(Path(run), default_host())
    check_offers(model, "sample", config)
    torch.manual_seed(seed)
    with torch.no_grad():
        drawn = draw(model, count, label_evidence(allowed, known))
        if by == "pixels":
            index = nearest(drawn.flatten(1), train.flatten(1), nearest_images)
        else:
            try:
                extractor = get_extractor(by, data, config["data"], inception_weights)
            except ValueError as error:
                raise UserError(str(error)) from None
            index = nearest(extractor(drawn), extractor(train), nearest_images)
    rows = torch.cat([drawn.unsqueeze(1), to_float(train[index])], 1)
    save_grid(rows.flatten(0, 1), path, 1 + nearest_images)
    print(f"neighbours: {path}")


def nearest(points: "Tensor", among: "Tensor", count: int) -> "Tensor":
    """The nearest items by Euclidean distance, the nearest first.

    Arguments:
        points: float (items, numbers).
        among: (other items, numbers), of any number type.
        count: how many of the others.

    Returns:
        Their indices, long (items, count).
    """
    import torch

    # a part at a time: as floats, images take four times what they take as bytes
    parts = [torch.cdist(points, to_float(part)) for part in among.split(10_000)]
    return torch.cat(parts, 1).topk(count, largest=False).indices
