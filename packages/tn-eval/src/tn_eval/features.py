"""Features to compare images by: fixed networks with a name, and the features of held-out images, kept in a cache."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tn_core.protocols import Data, categorical_labels, to_float
from tn_eval.cache import cache_folder, cached_tensors
from tn_eval.classifier import FEATURES, cached_classifier
from tn_eval.inception import INCEPTION_FEATURES, SHA256, load_inception

__all__ = ["Extractor", "ExtractorName", "get_extractor", "held_out_features"]

ExtractorName = Literal["classifier", "inception"]

BATCH = 50  # Inception needs 10 MB an image


@dataclass(frozen=True)
class Extractor:
    """A fixed network that maps images to features.

    Attributes:
        name: part of the names of the metrics that rest on it.
        weights: a digest of its weights.
        size: the number of features.
        network: float images in [0, 1], (batch, channels, height, width), to features (batch, size).
    """

    name: str
    weights: str
    size: int
    network: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Features, float32 (items, size), of images of any number type."""
        return torch.cat([self.network(to_float(part)) for part in x.split(BATCH)])


def get_extractor(
    name: ExtractorName,
    data: Data,
    spec: Mapping[str, Any],
    inception_weights: str | None = None,
    download: bool = False,
) -> Extractor:
    """Makes an extractor ready.

    Arguments:
        name: "classifier": the classifier of the data set, trained on its true labels if it is not in the cache; or
            "inception": the network of the published FID, for which grey images are repeated to three channels.
        data: the data set.
        spec: the data set as a component.
        inception_weights: Inception's weights file; None: the one in the cache.
        download: whether that may be fetched.

    Raises:
        ValueError: if there is no such extractor, or it is not for these data.
        UserError: if files are missing or cannot be written.
    """
    if name not in ("classifier", "inception"):
        raise ValueError(f"features must be 'classifier' or 'inception', got {name!r}")
    if len(data.shape) != 3:
        raise ValueError(f"features are for images, (channels, height, width); these data have shape {data.shape}")
    if name == "classifier":
        if not categorical_labels(data.labels):
            raise ValueError("these data have no labels to train a classifier on; the features 'inception' need none")
        classifier = cached_classifier(data, spec)
        digest = hashlib.sha256()
        for key, value in sorted(classifier.state_dict().items()):
            digest.update(key.encode() + value.numpy().tobytes())
        return Extractor(name, digest.hexdigest(), FEATURES, classifier.features)
    if data.shape[0] not in (1, 3):
        raise ValueError(f"inception is for images of 1 or 3 channels, these have {data.shape[0]}")
    network = load_inception(inception_weights, download)

    def extract(x: Tensor) -> Tensor:
        # published figures are of images with 8 bits a channel
        found: Tensor = network((x.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1))[0]
        return found

    return Extractor(name, SHA256, INCEPTION_FEATURES, extract)


def held_out_features(extractor: Extractor, data: Data) -> Tensor:
    """Features, float32 (items, size), of the test images; computed once for these images and weights, then cached.

    A cache file that is broken or does not fit is made anew.

    Raises:
        UserError: if the cache cannot be written.
    """
    x = data.split("test").x.contiguous()
    digest = hashlib.sha256(f"{extractor.name} {extractor.weights} {x.dtype} {tuple(x.shape)}".encode())
    digest.update(x.numpy().data)
    path = cache_folder("features") / f"{extractor.name}-{digest.hexdigest()[:16]}.safetensors"

    def fits(found: dict[str, Tensor]) -> bool:
        shapes = {key: tuple(value.shape) for key, value in found.items()}
        return shapes == {"features": (len(x), extractor.size)} and bool(found["features"].isfinite().all())

    return cached_tensors(path, lambda: {"features": extractor(x)}, fits)["features"]
