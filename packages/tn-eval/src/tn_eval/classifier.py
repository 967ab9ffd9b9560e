"""A classifier trained apart from any model: it says which labels samples have, and gives features to compare them by.

It is trained on the true labels of the training split, once a data set, and kept in a cache: the folder TN_CACHE, or
``~/.cache/tn``.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tn_core.errors import UserError
from tn_core.protocols import Data, categorical_labels, to_float
from tn_eval.cache import cache_folder, cached_tensors

__all__ = ["Classifier", "accuracy", "cached_classifier", "categorical", "predict"]

EPOCHS = 5
FEATURES = 128
VERSION = 2  # part of the cache's key: raise it with any change to network or training


class Classifier(nn.Module):
    """A small convolutional network with one head a label.

    Its features are the 128 numbers before the last layer, and before their rectifier: none of them is dead, they are
    nearer to normal, and a few hundred images are enough for a covariance of full rank.

    Arguments:
        shape: (channels, height, width).
        sizes: the number of values of each label.
    """

    def __init__(self, shape: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        layers: list[nn.Module] = []
        before, side = shape[0], min(shape[1:])
        for width in (32, 64, 128):
            stride = 2 if side > 4 else 1
            side = (side + stride - 1) // stride
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(before * 16, FEATURES)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, sum(sizes)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (batch, values) of each label, for float images."""
        return list(self.head(self.features(x)).split(self.sizes, -1))

    def features(self, x: Tensor) -> Tensor:
        """The numbers before the last layer, (batch, 128), for float images."""
        found: Tensor = self.body(x)
        return found


@torch.no_grad()
def predict(classifier: Classifier, x: Tensor) -> Tensor:
    """The likeliest values, long (items, labels), for images of any number type."""
    parts = []
    for part in x.split(1000):
        parts.append(torch.stack([logits.argmax(-1) for logits in classifier(to_float(part))], -1))
    return torch.cat(parts)


def accuracy(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """For every item the share of its known labels that the classifier sees in it, (items,); NaN where none is."""
    known = y >= 0
    return ((predict(classifier, x) == y) & known).sum(1) / known.sum(1)


def cached_classifier(data: Data, spec: Mapping[str, Any]) -> Classifier:
    """Returns the classifier of a data set, training it if it is not in the cache.

    Arguments:
        data: the data set.
        spec: the data set as a component; what it says of hidden labels does not matter.

    Raises:
        UserError: if the data are not images or have no labels, or the cache cannot be written.
    """
    if len(data.shape) != 3:
        raise UserError(f"the classifier is for images, (channels, height, width); these data have shape {data.shape}")
    sizes = [len(values) for values in categorical_labels(data.labels).values()]
    if not sizes:
        raise UserError("the classifier is trained on categorical labels, and these data have none")
    key = _without_hiding(spec)
    digest = hashlib.sha256(
        json.dumps([VERSION, EPOCHS, list(data.shape), sizes, key], sort_keys=True, default=str).encode()
    ).hexdigest()[:16]
    path = cache_folder("classifiers") / f"{spec['name']}-{digest}.safetensors"
    classifier = Classifier(data.shape, sizes)
    shapes = {name: value.shape for name, value in classifier.state_dict().items()}

    def train() -> dict[str, Tensor]:
        _train(classifier, data)
        return classifier.state_dict()

    weights = cached_tensors(path, train, lambda found: {name: value.shape for name, value in found.items()} == shapes)
    classifier.load_state_dict(weights)
    return classifier.eval()


def categorical(data: Data, y: Tensor) -> Tensor:
    """The categorical ones of labels (items, labels), long, -1 where unknown."""
    wanted = categorical_labels(data.labels)
    columns = [j for j, name in enumerate(data.labels) if name in wanted]
    y = y[:, columns]
    return y.nan_to_num(-1).long() if y.is_floating_point() else y


def _without_hiding(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A data set as a component, less what does not matter to a classifier; that of one in it as well."""
    hiding = ("missing", "missing_seed", "download")
    return {k: _without_hiding(v) if isinstance(v, Mapping) else v for k, v in spec.items() if k not in hiding}


@torch.enable_grad()
def _train(classifier: Classifier, data: Data) -> None:
    """A few epochs of Adam on all true labels, with a seed of its own."""
    train = data.split("train")
    labels = categorical(data, train.labels)
    steps = max(EPOCHS * -(-len(train) // 128), 300)  # small sets need more than a few passes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = Classifier(data.shape, classifier.sizes)  # its start must not depend on what was drawn before
        classifier.load_state_dict(fresh.state_dict())
        optimiser = torch.optim.Adam(classifier.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        print(f"training the classifier that checks samples ({steps} steps, once)", file=sys.stderr)
        classifier.train()
        for _ in range(steps):
            index = torch.randint(len(train), (128,))
            x, y = to_float(train.x[index]), labels[index]
            loss = torch.stack(
                [
                    nn.functional.cross_entropy(logits, y[:, j], ignore_index=-1)
                    for j, logits in enumerate(classifier(x))
                    if bool((y[:, j] >= 0).any())
                ]
            ).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
