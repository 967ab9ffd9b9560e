"""Metrics of any model that offers the protocols of ``tn_core.protocols``.

Every metric returns a mapping from names to :class:`Value`: a number with its unit, which way is better, how many items
it was measured on, and the half width of its 95 % interval. Where the number is a mean, that is the normal
approximation over the items; where it is not, 1.96 standard deviations over a hundred resamples of the items (a
bootstrap with a fixed seed); for distances see :mod:`tn_eval.distances`.

A metric raises a ValueError where the model or the data do not let it be measured.

References:
    Burda et al., Importance Weighted Autoencoders, 2015, section 5.2 (active units), https://arxiv.org/abs/1509.00519
    Guo et al., On Calibration of Modern Neural Networks, 2017, equation 3, https://arxiv.org/abs/1706.04599
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, section 6 and appendix E
    Lavda et al., Improving VAE generations of multimodal data (CP-VAE), 2020
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from tn_core.protocols import (
    Assigns,
    Bounds,
    Data,
    Decomposes,
    Encodes,
    Imputes,
    Interval,
    Reconstructs,
    Samples,
    Split,
    all_unknown,
    categorical_labels,
    is_known,
    to_float,
)
from tn_eval.classifier import accuracy, cached_classifier, categorical
from tn_eval.distances import covered, frechet_distance, kernel_distance
from tn_eval.features import Extractor, ExtractorName, get_extractor, held_out_features

__all__ = [
    "Value",
    "active_units",
    "bound_elbo",
    "bound_iwae",
    "calibration",
    "clustering",
    "condition_accuracy",
    "conditional_fid",
    "decomposition",
    "fid",
    "imputation",
    "reconstruction",
    "reconstruction_fid",
]


@dataclass(frozen=True)
class Value:
    """One measured number."""

    value: float
    interval: float
    unit: str
    better: str
    items: int

    @classmethod
    def of(cls, values: Tensor, unit: str, better: str) -> "Value":
        """The mean of one number an item."""
        values = values.double()
        spread = float(values.std()) if len(values) > 1 else math.nan
        return cls(float(values.mean()), 1.96 * spread / math.sqrt(len(values)), unit, better, len(values))

    @classmethod
    def resampled(cls, statistic: Callable[[Tensor], float], items: int, unit: str, better: str) -> "Value":
        """Any number that is a function of which items are looked at, long (items,), with repetitions."""
        generator = torch.Generator().manual_seed(0)
        drawn = [statistic(torch.randint(items, (items,), generator=generator)) for _ in range(100)]
        spread = float(torch.tensor(drawn, dtype=torch.float64).std())
        return cls(statistic(torch.arange(items)), 1.96 * spread, unit, better, items)

    def __str__(self) -> str:
        interval = "" if math.isnan(self.interval) else f" ± {self.interval:.2g}"
        better = f", {self.better} is better" if self.better else ""
        return f"{self.value:.4g}{interval} {self.unit} ({self.items} items{better})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: None if value != value else value for key, value in asdict(self).items()}  # JSON has no NaN


@torch.no_grad()
def bound_elbo(model: Bounds, data: Data, batch_size: int = 500) -> Mapping[str, Value]:
    """The evidence lower bound of log p(x) of the test items (or log p(x | y)), one posterior sample each."""
    found = [model.elbo(to_float(x), y) for x, y in _test_items(model, data.split("test"), slice(None), batch_size)]
    return {"elbo": Value.of(torch.cat(found), "nats per example", "higher")}


@torch.no_grad()
def bound_iwae(model: Bounds, data: Data, samples: int = 100, items: int = 1000) -> Mapping[str, Value]:
    """The importance-weighted bound of the same, of so many test items, always the same random choice."""
    part = data.split("test")
    everything = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    chosen = everything[:items].sort().values  # test sets may be sorted
    batch = max(1, 2000 // samples)
    found = [model.iwae(to_float(x), y, samples) for x, y in _test_items(model, part, chosen, batch)]
    return {f"iwae_{samples}": Value.of(torch.cat(found), "nats per example", "higher")}


@torch.no_grad()
def fid(
    model: Samples,
    data: Data,
    spec: Mapping[str, Any],
    samples: int = 10_000,
    features: ExtractorName = "classifier",
    inception_weights: str | None = None,
    download: bool = False,
    batch_size: int = 500,
) -> Mapping[str, Value]:
    """FID and KID, precision and recall: samples and test images as a fixed network sees them.

    The distances say how far the samples are, precision the share of samples that lie where test images are, recall the
    share of test images that lie where samples are; these two of equally many of both. The network is part of the
    numbers' names. FID depends on the number of samples, see :mod:`tn_eval.distances`; all depend on the very network,
    so compare those of "classifier" only where they rest on one cache.

    Arguments:
        model: draws images without conditions.
        data: the data set.
        spec: the data set as a component.
        samples: how many to draw.
        features: the network, "classifier" or "inception", see :func:`tn_eval.features.get_extractor`.
        inception_weights: Inception's weights file; None: the one in the cache.
        download: whether that may be fetched.
        batch_size: samples drawn at a time.

    Raises:
        ValueError: if the extractor is not for these data, or the model's samples are no such images.
        UserError: if files are missing or cannot be written.
    """
    extractor = get_extractor(features, data, spec, inception_weights, download)
    parts = torch.empty(samples, 0).split(batch_size)
    found = torch.cat([_seen(extractor, model.sample(len(part)), data) for part in parts])
    reference = held_out_features(extractor, data)
    # precision and recall are those of equally many samples and images
    equally = min(len(found), len(reference))
    some = reference[torch.randperm(len(reference), generator=torch.Generator().manual_seed(0))[:equally]]
    drawn = found[:equally]
    return {
        f"fid_{features}": Value(*frechet_distance(found, reference), "squared distance", "lower", samples),
        f"kid_{features}": Value(*kernel_distance(found, reference), "squared kernel distance", "lower", samples),
        f"precision_{features}": Value.of(100 * covered(drawn, some).double(), "%", "higher"),
        f"recall_{features}": Value.of(100 * covered(some, drawn).double(), "%", "higher"),
    }


@torch.no_grad()
def conditional_fid(
    model: Samples,
    data: Data,
    spec: Mapping[str, Any],
    samples: int = 10_000,
    features: ExtractorName = "classifier",
    inception_weights: str | None = None,
    download: bool = False,
    batch_size: int = 500,
) -> Mapping[str, Value]:
    """The FID of samples that were asked to have the labels of test items.

    The label sets are drawn as for :func:`condition_accuracy`, so that right samples are distributed like test images.
    Arguments and errors are those of :func:`fid`; the model draws images with given labels.
    """
    asked = _label_sets(data, samples)
    extractor = get_extractor(features, data, spec, inception_weights, download)
    parts = asked.split(batch_size)
    found = torch.cat([_seen(extractor, model.sample(len(part), part), data) for part in parts])
    value = Value(*frechet_distance(found, held_out_features(extractor, data)), "squared distance", "lower", len(found))
    return {f"conditional_fid_{features}": value}


@torch.no_grad()
def reconstruction_fid(
    model: Reconstructs,
    data: Data,
    spec: Mapping[str, Any],
    features: ExtractorName = "classifier",
    inception_weights: str | None = None,
    download: bool = False,
    batch_size: int = 500,
) -> Mapping[str, Value]:
    """The FID of reconstructed test images, against the test images: what is lost in the latents and the decoder.

    Arguments and errors are those of :func:`fid`.
    """
    extractor = get_extractor(features, data, spec, inception_weights, download)
    parts = data.split("test").x.split(batch_size)
    found = torch.cat([_seen(extractor, model.reconstruct(to_float(part)), data) for part in parts])
    value = Value(*frechet_distance(found, held_out_features(extractor, data)), "squared distance", "lower", len(found))
    return {f"fid_reconstruction_{features}": value}


@torch.no_grad()
def condition_accuracy(
    model: Samples, data: Data, spec: Mapping[str, Any], items: int = 2000, batch_size: int = 500
) -> Mapping[str, Value]:
    """How often samples have the categorical labels asked for, as a classifier trained apart sees them.

    The label sets asked for are drawn from the test items, complete, with replacement (TRIP, appendix E.1).
    """
    asked = _label_sets(data, items)
    classifier = cached_classifier(data, spec)
    test = data.split("test")
    own = accuracy(classifier, test.x, categorical(data, test.labels))
    match = torch.cat(
        [accuracy(classifier, model.sample(len(p), p), categorical(data, p)) for p in asked.split(batch_size)]
    )
    return {
        "condition_accuracy": Value.of(100 * match, "%", "higher"),
        "classifier_accuracy": Value.of(100 * own[~own.isnan()], "%", "higher"),
    }


@torch.no_grad()
def imputation(model: Imputes, data: Data, batch_size: int = 500) -> Mapping[str, Value]:
    """Accuracy and log score of the labels of the test items, all of them hidden from the model.

    Of continuous labels the distance of the imputed mean from the truth, in units of the label.
    """
    test = data.split("test")
    correct: dict[str, list[Tensor]] = {name: [] for name in data.labels}
    score: dict[str, list[Tensor]] = {name: [] for name in data.labels}
    away: dict[str, list[Tensor]] = {name: [] for name in data.labels}
    for x, y in zip(test.x.split(batch_size), test.labels.split(batch_size), strict=True):
        held = model.impute(to_float(x), all_unknown(y))
        for (name, values), p, truth in zip(data.labels.items(), held, y.unbind(1), strict=True):
            known = is_known(truth)
            p, truth = p[known], truth[known]
            if isinstance(values, Interval):
                away[name].append((p[:, 0] - truth).abs())
                continue
            correct[name].append((p.argmax(-1) == truth).double())
            score[name].append(p.gather(-1, truth.long().unsqueeze(-1)).squeeze(-1).double().clamp_min(1e-12).log())
    found = {}
    for name, values in data.labels.items():
        suffix = f"_{name}" if len(data.labels) > 1 else ""
        if isinstance(values, Interval):
            found[f"imputation_error{suffix}"] = Value.of(torch.cat(away[name]), f"of {name}", "lower")
            continue
        found[f"imputation_accuracy{suffix}"] = Value.of(100 * torch.cat(correct[name]), "%", "higher")
        found[f"imputation_log_score{suffix}"] = Value.of(torch.cat(score[name]), "nats per label", "higher")
    every = [part for parts in correct.values() for part in parts]
    if len(data.labels) > 1 and every:
        found["imputation_accuracy"] = Value.of(100 * torch.cat(every), "%", "higher")
    return found


@torch.no_grad()
def calibration(model: Imputes, data: Data, batch_size: int = 500, bins: int = 15) -> Mapping[str, Value]:
    """Whether imputed probabilities are right: expected calibration error and Brier score of the labels of test items.

    Of the categorical labels; all labels are hidden from the model. The calibration error compares the probability of
    the likeliest value with how often it is right, in bins of equal width; it is above 0 for a perfect model too, the
    more so the fewer the items. The Brier score is the squared distance of the probabilities from the truth, from 0 to
    2.
    """
    from torchmetrics.functional.classification import binary_calibration_error

    test = data.split("test")
    labels = categorical(data, test.labels)
    names = list(categorical_labels(data.labels))
    confidence, correct, brier = (torch.zeros(labels.shape, dtype=torch.float64) for _ in range(3))
    for index in torch.arange(len(test)).split(batch_size):
        held = model.impute(to_float(test.x[index]), all_unknown(test.labels[index]))
        posteriors = dict(zip(data.labels, held, strict=True))
        for j, name in enumerate(names):
            p = posteriors[name]
            truth = labels[index, j]
            p = p.double() / p.double().sum(-1, keepdim=True)  # rounded to float32 they may exceed 1
            if not (p >= 0).all():
                raise ValueError("imputed probabilities are negative or not finite")
            confidence[index, j], best = p.max(-1)
            correct[index, j] = (best == truth).double()
            one_hot = torch.zeros_like(p).scatter(-1, truth.clamp_min(0).unsqueeze(-1), 1.0)
            brier[index, j] = (p - one_hot).square().sum(-1)
    known = labels >= 0

    def measure(columns: slice, suffix: str) -> dict[str, Value]:
        rows = known[:, columns].any(1).nonzero().flatten()

        def error(chosen: Tensor) -> float:
            index = rows[chosen]
            mask = known[index, columns]
            sure, right = confidence[index, columns][mask], correct[index, columns][mask].long()
            return float(binary_calibration_error(sure, right, n_bins=bins, validate_args=False))

        return {
            f"calibration_error{suffix}": Value.resampled(error, len(rows), "of 1", "lower"),
            f"brier_score{suffix}": Value.of(brier[:, columns][known[:, columns]], "of 2", "lower"),
        }

    if not known.any():
        raise ValueError("the test items have no true labels to compare with")
    found = measure(slice(None), "")
    if len(names) > 1:
        for j, name in enumerate(names):
            if known[:, j].any():
                found |= measure(slice(j, j + 1), f"_{name}")
    return found


@torch.no_grad()
def active_units(model: Encodes, data: Data, threshold: float = 0.01, batch_size: int = 500) -> Mapping[str, Value]:
    """The number of latents that the data move: Cov_x(E_q[z | x]) above the threshold, over the test items."""
    means = torch.cat([model.encode(to_float(x)).flatten(1).double() for x in data.split("test").x.split(batch_size)])

    def count(chosen: Tensor) -> float:
        return float((means[chosen].var(0) > threshold).sum())

    return {"active_units": Value.resampled(count, len(means), f"of {means.shape[1]} latents", "higher")}


@torch.no_grad()
def decomposition(model: Decomposes, data: Data) -> Mapping[str, Value]:
    """What the divergence from the prior consists of over the test items, without intervals (CP-VAE, equation 13)."""
    x = to_float(data.split("test").x)
    found = model.decompose(x)
    return {f"decomposed_{name}": Value(value, math.nan, "nats", "", len(x)) for name, value in found.items()}


@torch.no_grad()
def reconstruction(model: Reconstructs, data: Data, batch_size: int = 500) -> Mapping[str, Value]:
    """The mean squared error of reconstructed test items, per pixel and channel (or what else an item consists of)."""
    errors = []
    for part in data.split("test").x.split(batch_size):
        x = to_float(part)
        again = model.reconstruct(x)
        if again.shape != x.shape:
            raise ValueError(f"reconstructions of items {tuple(x.shape)} have the shape {tuple(again.shape)}")
        errors.append((again.double() - x.double()).square().flatten(1).mean(1))
    return {"reconstruction_error": Value.of(torch.cat(errors), "squared error per pixel", "lower")}


@torch.no_grad()
def clustering(model: Assigns, data: Data, batch_size: int = 500) -> Mapping[str, Value]:
    """How well clusters of the test items agree with their first categorical label.

    The accuracy is that of the best one-to-one matching of clusters and classes; where there are more clusters than
    classes, items of a cluster without a class count as wrong, so the accuracy with every cluster named after the class
    of most of its items is given too. Mutual information is normalised by the mean of both entropies.
    """
    sizes = [len(values) for values in categorical_labels(data.labels).values()]
    if not sizes:
        raise ValueError("these data have no labels to compare clusters with")
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    test = data.split("test")
    truth = categorical(data, test.labels)[:, 0]
    assigned = torch.cat([model.assign(to_float(x)) for x in test.x.split(batch_size)])
    classes, clusters = truth[truth >= 0].numpy(), assigned[truth >= 0].numpy()
    if not len(classes):
        raise ValueError("the test items have no true labels to compare with")

    def pair(chosen: Tensor) -> tuple[Any, Any]:
        return classes[chosen.numpy()], clusters[chosen.numpy()]

    def matched(chosen: Tensor) -> float:
        counts = contingency_matrix(*pair(chosen))
        return float(100 * counts[linear_sum_assignment(-counts)].sum() / len(chosen))

    def majority(chosen: Tensor) -> float:
        return float(100 * contingency_matrix(*pair(chosen)).max(0).sum() / len(chosen))

    def information(chosen: Tensor) -> float:
        return float(normalized_mutual_info_score(*pair(chosen)))

    def rand(chosen: Tensor) -> float:
        return float(adjusted_rand_score(*pair(chosen)))

    items = len(classes)
    found = {"cluster_accuracy": Value.resampled(matched, items, "%", "higher")}
    if len(set(clusters.tolist())) > sizes[0]:
        found["cluster_majority_accuracy"] = Value.resampled(majority, items, "%", "higher")
    found["cluster_mutual_information"] = Value.resampled(information, items, "of 1", "higher")
    found["cluster_rand_index"] = Value.resampled(rand, items, "of 1", "higher")
    return found


def _test_items(
    model: Bounds, part: Split, chosen: Tensor | slice, batch_size: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of test items; with their labels if the model needs them."""
    labels = part.labels[chosen].split(batch_size) if getattr(model, "needs_labels", False) else repeat(None)
    return zip(part.x[chosen].split(batch_size), labels)  # noqa: B905  (None goes on for ever)


def _label_sets(data: Data, count: int) -> Tensor:
    """Complete label sets of test items, drawn with replacement, (count, labels)."""
    labels = data.split("test").labels
    labels = labels[is_known(labels).all(1)]
    if not labels.numel():
        raise ValueError("no test item has all its labels")
    return labels[torch.randint(len(labels), (count,))]


def _seen(extractor: Extractor, x: Tensor, data: Data) -> Tensor:
    """The features of samples that are images like those of the data."""
    if x.shape[1:] != data.shape:
        raise ValueError(f"samples have the shape {tuple(x.shape[1:])}, the data {tuple(data.shape)}")
    return extractor(x)
