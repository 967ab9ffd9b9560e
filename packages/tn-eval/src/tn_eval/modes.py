"""How many of the data's modes a model's samples show: whether a GAN has lost some.

References:
    Metz et al., Unrolled Generative Adversarial Networks, 2017, section 3.3.1, https://arxiv.org/abs/1611.02163
    Srivastava et al., VEEGAN: Reducing Mode Collapse in GANs, 2017, section 5, https://arxiv.org/abs/1705.07761
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tn_core.protocols import Data, Samples, categorical_labels
from tn_eval.classifier import cached_classifier, categorical, predict
from tn_eval.metrics import Value

__all__ = ["Centred", "modes"]


@runtime_checkable
class Centred(Protocol):
    """Data that lie about centres, (modes, *shape), all with one deviation in every direction."""

    centres: Tensor
    deviation: float


@torch.no_grad()
def modes(
    model: Samples, data: Data, spec: Mapping[str, Any], samples: int = 10_000, batch_size: int = 500
) -> Mapping[str, Value]:
    """How many of the data's modes samples show.

    Data that are :class:`Centred` have a mode at each centre: it is shown if a sample lies within three deviations of
    it, and nearer to it than to the others; ``high_quality`` is the share of such samples. Of labelled images the modes
    are the combinations of categorical labels that training images have, and a classifier trained apart says which one
    a sample shows; ``mode_divergence`` is the Kullback-Leibler divergence of the samples' combinations from those of
    the training images, and given if samples show no others.

    Arguments:
        model: draws data without conditions.
        data: the data set.
        spec: the data set as a component.
        samples: how many to draw; what is shown grows with them.
        batch_size: samples drawn at a time.

    Raises:
        ValueError: if the data have no such modes.
    """
    parts = torch.empty(samples, 0).split(batch_size)
    if isinstance(data, Centred):
        x = torch.cat([model.sample(len(part)) for part in parts]).flatten(1)
        distance, nearest = torch.cdist(x, data.centres.to(x).flatten(1)).min(1)
        good = distance <= 3 * data.deviation

        def shown(chosen: Tensor) -> float:
            return float(len(nearest[chosen[good[chosen]]].unique()))

        return {
            "modes": Value.resampled(shown, samples, f"of {len(data.centres)}", "higher"),
            "high_quality": Value.of(100 * good.double(), "%", "higher"),
        }
    if len(data.shape) != 3 or not categorical_labels(data.labels):
        raise ValueError("modes are centres that the data name, or combinations of labels of images")
    train = data.split("train")
    truth = categorical(data, train.labels)
    truth = truth[(truth >= 0).all(1)]
    if not len(truth):
        raise ValueError("no training image has all its labels")
    classifier = cached_classifier(data, spec)
    seen = torch.cat([predict(classifier, model.sample(len(part))) for part in parts])
    combinations, index = torch.cat([truth, seen]).unique(dim=0, return_inverse=True)
    of_truth, of_seen = index.split([len(truth), samples])
    in_data = of_truth.bincount(minlength=len(combinations)).double() / len(truth)

    def known(chosen: Tensor) -> float:
        found = of_seen[chosen].unique()
        return float((in_data[found] > 0).sum())

    def divergence(chosen: Tensor) -> float:
        p = of_seen[chosen].bincount(minlength=len(combinations)).double() / samples
        return float(torch.xlogy(p, p / in_data).sum())

    found = {"modes": Value.resampled(known, samples, f"of {int((in_data > 0).sum())}", "higher")}
    if bool((in_data > 0).all()):
        found["mode_divergence"] = Value.resampled(divergence, samples, "nats", "lower")
    return found
