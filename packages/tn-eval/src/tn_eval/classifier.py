"""A classifier trained apart from any model, to check whether samples have the labels that were asked for.

It is trained on the true labels of the training split, once a data set, and kept in a cache: the folder TN_CACHE, or
``~/.cache/tn``.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tn_core.errors import UserError
from tn_core.protocols import Data, to_float
from tn_core.storage import replacing

__all__ = ["Classifier", "accuracy", "cached_classifier"]

EPOCHS = 5
VERSION = 1  # part of the cache's key: raise it with any change to network or training


class Classifier(nn.Module):
    """A small convolutional network with one head a label.

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
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3))
        self.head = nn.Linear(before * 16, sum(sizes))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (batch, values) of each label, for float images."""
        return list(self.head(self.body(x)).split(self.sizes, -1))


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


def cached_classifier(data: Data, spec: Mapping[str, Any]) -> tuple[Classifier, Tensor]:
    """Returns the classifier of a data set, training it if it is not in the cache, and its accuracy a test item.

    Arguments:
        data: the data set.
        spec: the data set as a component; what it says of hidden labels does not matter.

    Raises:
        UserError: if the data are not images or the cache cannot be written.
    """
    if len(data.shape) != 3:
        raise UserError(f"the classifier is for images, (channels, height, width); these data have shape {data.shape}")
    sizes = [len(values) for values in data.labels.values()]
    key = {k: v for k, v in spec.items() if k not in ("missing", "missing_seed", "download")}
    digest = hashlib.sha256(
        json.dumps([VERSION, EPOCHS, list(data.shape), sizes, key], sort_keys=True, default=str).encode()
    ).hexdigest()[:16]
    folder = Path(os.environ.get("TN_CACHE", "~/.cache/tn")).expanduser() / "classifiers"
    path = folder / f"{spec['name']}-{digest}.safetensors"
    classifier = Classifier(data.shape, sizes)
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    test = data.split("test")
    try:
        classifier.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):  # not there, cut short, or of another network: train it
        _train(classifier, data)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(classifier.state_dict(), temporary)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot write the classifier to {folder} (set TN_CACHE): {error}") from None
    classifier.eval()
    return classifier, accuracy(classifier, test.x, test.labels)


@torch.enable_grad()
def _train(classifier: Classifier, data: Data) -> None:
    """A few epochs of Adam on all true labels, with a seed of its own."""
    train = data.split("train")
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
            x, y = to_float(train.x[index]), train.labels[index]
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
