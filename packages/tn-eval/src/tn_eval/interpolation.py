"""Between the latents of two items: ways from one to the other, and how the data look on them.

References:
    Ghosh et al., From Variational to Deterministic Autoencoders, 2020, section 5 (mid-points, spherical)
    White, Sampling Generative Networks, 2016, https://arxiv.org/abs/1609.04468 (spherical interpolation)
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from tn_core.protocols import Data, Encodes, to_float
from tn_eval.distances import frechet_distance
from tn_eval.features import ExtractorName, get_extractor, held_out_features
from tn_eval.metrics import Value

__all__ = ["Way", "between", "interpolation"]

Way = Literal["linear", "spherical"]


def between(first: Tensor, second: Tensor, share: Tensor | float, way: Way) -> Tensor:
    r"""Latents on the way from one to another.

    Spherical: along the great circle, sin((1 - t) a) / sin a z + sin(t a) / sin a z', with the angle a between the two;
    where that is next to nothing or they are opposite, linear.

    Arguments:
        first: (\*batch, features).
        second: (\*batch, features).
        share: t, of the way that is gone, from 0 to 1, (\*batch, 1) or a number.
        way: "linear" or "spherical".
    """
    linear = (1 - share) * first + share * second
    if way == "linear":
        return linear
    cosine = torch.cosine_similarity(first, second, dim=-1).unsqueeze(-1)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    found = ((1 - share) * angle).sin() / sine * first + (share * angle).sin() / sine * second
    return torch.where(sine > 1e-4, found, linear)


@torch.no_grad()
def interpolation(
    model: Encodes,
    data: Data,
    spec: Mapping[str, Any],
    samples: int = 10_000,
    features: ExtractorName = "classifier",
    inception_weights: str | None = None,
    download: bool = False,
    batch_size: int = 500,
) -> Mapping[str, Value]:
    """FID of decoded mid-points between the latents of random pairs of test items, linear and spherical.

    Arguments:
        model: has latents.
        data: the data set.
        spec: the data set as a component.
        samples: how many pairs.
        features: the network that sees the images, see :func:`tn_eval.metrics.fid`.
        inception_weights: Inception's weights file; None: the one in the cache.
        download: whether that may be fetched.
        batch_size: pairs at a time.

    Raises:
        ValueError: if the extractor is not for these data.
        UserError: if files are missing or cannot be written.
    """
    extractor = get_extractor(features, data, spec, inception_weights, download)
    x = data.split("test").x
    found: dict[Way, list[Tensor]] = {"linear": [], "spherical": []}
    for pairs in torch.randint(len(x), (samples, 2)).split(batch_size):
        first, second = (model.encode(to_float(x[pairs[:, k]])) for k in range(2))
        for way, seen in found.items():
            seen.append(extractor(model.decode(between(first, second, 0.5, way))))
    reference = held_out_features(extractor, data)
    return {
        f"fid_{way}_{features}": Value(
            *frechet_distance(torch.cat(seen), reference), "squared distance", "lower", samples
        )
        for way, seen in found.items()
    }
