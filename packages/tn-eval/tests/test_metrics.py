"""Metrics of models made by hand, whose values are known."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from tn_core.errors import UserError
from tn_core.protocols import Split
from tn_eval.commands import evaluate
from tn_eval.datasets import Digits
from tn_eval.interpolation import interpolation
from tn_eval.metrics import (
    Value,
    active_units,
    calibration,
    clustering,
    conditional_fid,
    decomposition,
    fid,
    reconstruction,
    reconstruction_fid,
)


class Items:
    """A data set of given test items."""

    def __init__(self, x, labels, values=(3,)):
        self.x, self.y = x, labels
        self.shape = tuple(x.shape[1:])
        self.labels = {f"label {j}": [str(v) for v in range(size)] for j, size in enumerate(values)}

    def split(self, name):
        return Split(self.x, self.y, torch.zeros(self.y.shape, dtype=torch.bool))


class Tells:
    """Offers the protocols by what it is given."""

    def __init__(self, **methods):
        for name, method in methods.items():
            setattr(self, name, method)


def asserts_all_hidden(posteriors):
    """A model that imputes so, and minds that no label is shown to it."""

    def impute(x, y):
        assert (y == -1).all()
        return posteriors(x)

    return Tells(impute=impute)


# calibration


def test_calibration_by_hand():
    """Two bins: of four items two are 80 % sure and half right, two are 60 % sure and all right."""
    x = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6], [0.4, 0.6]])
    data = Items(x, torch.tensor([[0], [1], [1], [1]]), [2])
    found = calibration(asserts_all_hidden(lambda x: [x]), data, batch_size=3)
    assert set(found) == {"calibration_error", "brier_score"}
    assert found["calibration_error"].value == pytest.approx(0.5 * abs(0.8 - 0.5) + 0.5 * abs(0.6 - 1), rel=1e-6)
    assert found["brier_score"].value == pytest.approx((2 * 0.2**2 + 2 * 0.8**2 + 4 * 0.4**2) / 4, rel=1e-6)
    assert found["calibration_error"].items == 4


def test_calibration_of_several_labels_by_hand():
    """Labels of different sizes, one of them unknown for one item, one of them for all."""
    x = torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.2], [0.9, 0.1, 0.2, 0.3, 0.5]])
    data = Items(x, torch.tensor([[0, 0, -1], [1, -1, -1]]), [2, 3, 2])
    found = calibration(asserts_all_hidden(lambda x: [x[:, :2], x[:, 2:], x[:, :2]]), data)
    assert set(found) == {
        f"{kind}{suffix}" for kind in ("calibration_error", "brier_score") for suffix in ("", "_label 0", "_label 1")
    }
    assert found["calibration_error_label 0"].value == pytest.approx(0.4, rel=1e-6)
    assert found["calibration_error_label 1"].value == pytest.approx(0.5, rel=1e-6)
    assert found["calibration_error"].value == pytest.approx((2 * 0.4 + 0.5) / 3, rel=1e-6)
    brier = [2 * 0.1**2, 2 * 0.9**2, 0.5**2 + 0.3**2 + 0.2**2]
    assert found["brier_score"].value == pytest.approx(sum(brier) / 3, rel=1e-6)
    assert found["brier_score_label 1"].items == 1


def test_calibration_of_one_that_knows_the_truth():
    """Labels drawn from the imputed probabilities themselves; and of one that is twice as sure as it should be.

    The expected calibration error of n items in b bins is on average below sqrt(b / n) / 2 for a calibrated model, and
    exceeds that by another 5 / (2 sqrt(n)) with a probability below 1e-5 (McDiarmid).
    """
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 4, generator=generator)
    p = logits.softmax(-1)
    data = Items(logits, torch.multinomial(p, 1, generator=generator), [4])
    right = calibration(asserts_all_hidden(lambda x: [x.softmax(-1)]), data)
    assert right["calibration_error"].value < (math.sqrt(15) + 5) / 2 / math.sqrt(20_000)
    brier = 1 - p.square().sum(-1).mean()
    assert right["brier_score"].value == pytest.approx(float(brier), abs=5 * right["brier_score"].interval / 1.96)
    wrong = calibration(asserts_all_hidden(lambda x: [(2 * x).softmax(-1)]), data)
    assert wrong["calibration_error"].value - wrong["calibration_error"].interval > 0.1
    assert wrong["brier_score"].value > right["brier_score"].value, "a proper score"


def test_calibration_of_the_certain():
    """Probabilities that rounding took above 1 are still probabilities."""
    x = torch.tensor([[1 + 1e-6, 0.0], [0.0, 1 + 1e-6]])
    found = calibration(asserts_all_hidden(lambda x: [x]), Items(x, torch.tensor([[0], [1]]), [2]))
    assert (found["calibration_error"].value, found["brier_score"].value) == (0, 0)


def test_calibration_errors():
    x = torch.tensor([[0.5, 0.5]])
    with pytest.raises(ValueError, match="no true labels"):
        calibration(asserts_all_hidden(lambda x: [x]), Items(x, torch.tensor([[-1]]), [2]))
    with pytest.raises(ValueError, match="negative or not finite"):
        calibration(asserts_all_hidden(lambda x: [x * math.nan]), Items(x, torch.tensor([[0]]), [2]))


def test_resampled_intervals_of_a_mean_are_those_of_the_mean():
    """A hundred resamples know the deviation to 7 %; allowed are 35 %."""
    x = torch.randn(2000, generator=torch.Generator().manual_seed(1)).double()
    value = Value.resampled(lambda chosen: float(x[chosen].mean()), 2000, "nats", "higher")
    expected = Value.of(x, "nats", "higher")
    assert value.value == pytest.approx(expected.value, rel=1e-12)
    assert value.interval == pytest.approx(expected.interval, rel=0.35)
    states = torch.get_rng_state()
    assert Value.resampled(lambda chosen: float(x[chosen].mean()), 2000, "nats", "higher") == value
    assert torch.equal(states, torch.get_rng_state())


# active units, reconstruction


def test_active_units():
    """Variances of 1, 0.0121, 0.0081 and 0 about large means; only the first two are above 0.01."""
    x = torch.randn(1001, 4, generator=torch.Generator().manual_seed(0)).double()
    x = (x - x.mean(0)) / x.std(0)
    scale, shift = torch.tensor([1, 0.11, 0.09, 0]), torch.tensor([0, 5, -7, 100])
    model = Tells(encode=lambda x: x * scale + shift, decode=lambda z: z)
    value = active_units(model, Items(x.float(), torch.zeros(1001, 1).long()), batch_size=300)["active_units"]
    assert value == Value(2.0, 0.0, "of 4 latents", "higher", 1001)


def test_active_units_near_the_threshold_are_uncertain():
    x = 0.1 * torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    model = Tells(encode=lambda x: x, decode=lambda z: z)
    assert active_units(model, Items(x, torch.zeros(200, 1).long()))["active_units"].interval > 1


def test_reconstruction():
    x = torch.tensor([[[[0, 255], [255, 0]]], [[[255, 255], [255, 255]]]], dtype=torch.uint8)
    data = Items(x, torch.zeros(2, 1).long())
    value = reconstruction(Tells(reconstruct=lambda x: torch.full_like(x, 0.5)), data)["reconstruction_error"]
    assert value.value == 0.25
    assert reconstruction(Tells(reconstruct=lambda x: x), data)["reconstruction_error"].value == 0
    half = reconstruction(Tells(reconstruct=lambda x: x * 0), data)["reconstruction_error"]
    assert (half.value, half.interval) == (0.75, pytest.approx(1.96 * 0.5 / 2))
    with pytest.raises(ValueError, match="shape"):
        reconstruction(Tells(reconstruct=lambda x: x.flatten(1)), data)


# clustering


def clustered(clusters, classes, values=3):
    x = clusters.unsqueeze(1).float()
    return clustering(Tells(assign=lambda x: x[:, 0].long()), Items(x, classes.unsqueeze(1), [values]), batch_size=7)


def test_clustering_by_hand():
    """Clusters 0, 1, 2 hold 3 + 1, 2 and 2 + 1 items of classes; matched with 2, 0 and 1: 3 + 2 + 2 of 9 are right."""
    clusters = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    classes = torch.tensor([2, 2, 2, 1, 0, 0, 1, 1, 0])
    found = clustered(clusters, classes)
    assert set(found) == {"cluster_accuracy", "cluster_mutual_information", "cluster_rand_index"}
    assert found["cluster_accuracy"].value == pytest.approx(100 * 7 / 9)
    joint = np.array([[0, 2, 1], [1, 0, 2], [3, 0, 0]]) / 9  # classes, clusters
    outer = joint.sum(1, keepdims=True) * joint.sum(0)
    information = sum(j * math.log(j / o) for j, o in zip(joint.flat, outer.flat, strict=True) if j)
    entropies = [-sum(p * math.log(p) for p in joint.sum(axis)) for axis in (0, 1)]
    assert found["cluster_mutual_information"].value == pytest.approx(2 * information / sum(entropies))
    pairs = [sum(math.comb(round(9 * p), 2) for p in q.flat) for q in (joint, joint.sum(0), joint.sum(1))]
    expected = pairs[1] * pairs[2] / math.comb(9, 2)
    assert found["cluster_rand_index"].value == pytest.approx(
        (pairs[0] - expected) / ((pairs[1] + pairs[2]) / 2 - expected)
    )


def test_names_of_clusters_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (300,), generator=generator)
    others = torch.randint(5, (300,), generator=generator)
    clusters = torch.where(torch.rand(300, generator=generator) < 0.6, classes, others)
    names = torch.tensor([70, 3, 11, 0, 5])
    first, second = clustered(clusters, classes), clustered(names[clusters], classes)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key].value == pytest.approx(value.value, rel=1e-12)
        assert second[key].interval == pytest.approx(value.interval, rel=1e-9)


def test_more_clusters_than_classes():
    """Every class in two clusters of its own: each is pure, but only one of two can be matched."""
    classes = torch.arange(300) % 3
    clusters = classes + 3 * (torch.arange(300) % 2)
    found = clustered(clusters, classes)
    assert found["cluster_accuracy"].value == pytest.approx(50)
    assert found["cluster_majority_accuracy"].value == 100
    assert clustered(classes, classes)["cluster_accuracy"].value == 100


def test_clusters_at_random_say_nothing():
    """The adjusted Rand index of 3,000 items is within 0.01 of 0, ten times its deviation."""
    generator = torch.Generator().manual_seed(0)
    found = clustered(torch.randint(3, (3000,), generator=generator), torch.randint(3, (3000,), generator=generator))
    assert abs(found["cluster_rand_index"].value) < 0.01
    assert found["cluster_accuracy"].value < 45


def test_clustering_of_items_with_labels_only():
    clusters = torch.tensor([0, 1, 2, 0])
    found = clustered(clusters, torch.tensor([0, 1, 2, -1]))
    assert found["cluster_accuracy"].value == 100
    assert found["cluster_accuracy"].items == 3
    with pytest.raises(ValueError, match="no true labels"):
        clustered(clusters, torch.full((4,), -1))
    with pytest.raises(ValueError, match="no labels to compare"):
        clustering(Tells(assign=lambda x: x), Items(torch.zeros(4, 1), torch.zeros(4, 0).long(), []))


# FID and KID of models


def test_samples_from_the_training_set_are_near_and_noise_is_far(host):
    model, data, spec = host.get("models", "Memory")(), Digits(), {"name": "digits"}
    torch.manual_seed(0)
    near = fid(model, data, spec, samples=1000)
    far = fid(Tells(sample=lambda count, y=None: torch.rand(count, 1, 8, 8)), data, spec, samples=1000)
    assert set(near) == {"fid_classifier", "kid_classifier", "precision_classifier", "recall_classifier"}
    for name in ("fid_classifier", "kid_classifier"):
        assert (near[name].items, near[name].better) == (1000, "lower")
        assert near[name].value + near[name].interval < (far[name].value - far[name].interval) / 10
    for name in ("precision_classifier", "recall_classifier"):
        assert (near[name].items, near[name].better) == (360, "higher")  # as many as there are test images
        assert near[name].value - near[name].interval > far[name].value + far[name].interval
    conditional = conditional_fid(model, data, spec, samples=1000)["conditional_fid_classifier"]
    assert conditional.value + conditional.interval < far["fid_classifier"].value / 10


def test_the_test_set_itself_is_at_distance_zero(host):
    data = Digits()
    x = data.split("test").x.float() / 255
    parts = iter(x.split(100))
    found = fid(Tells(sample=lambda count, y=None: next(parts)), data, {"name": "digits"}, samples=360, batch_size=100)
    assert found["fid_classifier"].value == pytest.approx(0, abs=1e-6)
    assert found["kid_classifier"].value < 0, "unbiased: pairs of one image with itself bring it below 0"


def test_conditions_are_those_of_test_items(host):
    """Images of a wrong class are as good without conditions, and far from what was asked for with them."""
    memory, data, spec = host.get("models", "Memory")(), Digits(), {"name": "digits"}
    asked = []

    def sample(count, y=None):
        asked.append(y)
        return memory.sample(count, torch.zeros_like(y))

    torch.manual_seed(0)
    wrong = conditional_fid(Tells(sample=sample), data, spec, samples=300, batch_size=100)
    right = conditional_fid(memory, data, spec, samples=300)
    name = "conditional_fid_classifier"
    assert wrong[name].value > 5 * right[name].value
    assert [tuple(y.shape) for y in asked] == [(100, 1)] * 3
    counts = torch.bincount(torch.cat(asked)[:, 0], minlength=10)
    assert counts.min() > 5, "every digit is asked for: 30 times on average, 6 or fewer with a probability below 1e-6"


def test_fid_of_reconstructions_and_of_interpolations():
    """Nothing lost: 0. Mid-points between pixels look like no digits."""
    data, spec = Digits(), {"name": "digits"}
    whole = Tells(reconstruct=lambda x: x, encode=lambda x: x.flatten(1), decode=lambda z: z.unflatten(1, (1, 8, 8)))
    lost = Tells(reconstruct=lambda x: (x + 0.5 * torch.rand_like(x)).clamp(0, 1))
    assert reconstruction_fid(whole, data, spec)["fid_reconstruction_classifier"].value == pytest.approx(0, abs=1e-3)
    assert reconstruction_fid(lost, data, spec, batch_size=100)["fid_reconstruction_classifier"].value > 1
    torch.manual_seed(0)
    found = interpolation(whole, data, spec, samples=1000)
    assert found["fid_linear_classifier"].value > 10
    assert found["fid_spherical_classifier"].value != found["fid_linear_classifier"].value


@pytest.mark.parametrize("metric", [fid, conditional_fid])
def test_fid_errors(host, metric):
    data, spec = Digits(), {"name": "digits"}
    model = Tells(sample=lambda count, y=None: torch.zeros(count, 1, 9, 9))
    with pytest.raises(ValueError, match=r"samples have the shape \(1, 9, 9\), the data \(1, 8, 8\)"):
        metric(model, data, spec, samples=5)
    model = Tells(sample=lambda count, y=None: torch.full((count, 1, 8, 8), math.nan))
    with pytest.raises(ValueError, match="samples are not finite"):
        metric(model, data, spec, samples=5)


def test_data_that_the_networks_are_not_for(host):
    model = Tells(sample=lambda count, y=None: torch.zeros(count, 5))
    with pytest.raises(ValueError, match=r"features are for images.*\(5,\)"):
        fid(model, Items(torch.zeros(4, 5), torch.zeros(4, 1).long()), {"name": "x"})
    with pytest.raises(ValueError, match="no labels to train a classifier on"):
        fid(model, Items(torch.zeros(4, 1, 8, 8), torch.zeros(4, 0).long(), []), {"name": "x"})
    with pytest.raises(ValueError, match="no test item has all its labels"):
        conditional_fid(model, Items(torch.zeros(4, 1, 8, 8), torch.full((4, 1), -1)), {"name": "x"})


# all of them by the command


class Everything(nn.Module):
    """Offers what the other models of these tests do not; in part it refuses."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def encode(self, x):
        """The first row of pixels."""
        return x[:, 0, 0]

    def decode(self, z):
        """Every row the same."""
        return z[:, None, None].expand(-1, 1, 8, -1)

    def reconstruct(self, x):
        """All of it."""
        return x * self.weight

    def assign(self, x):
        """Bright or dark."""
        return (x.mean((1, 2, 3)) > 0.3).long()

    def sample(self, count, y=None):
        """Never with labels."""
        if y is not None:
            raise ValueError("knows no labels")
        return torch.rand(count, 1, 8, 8)


def test_the_command_measures_what_is_offered(run, host, monkeypatch, capsys):
    folder = run("Blank")
    monkeypatch.setattr("tn_eval.commands.load_model", lambda path, host: (Everything(), _config(path)))
    evaluate(str(folder), samples=50, condition_items=10)
    found = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert set(found) == {
        "active_units",
        "cluster_accuracy",
        "cluster_mutual_information",
        "cluster_rand_index",
        "fid_classifier",
        "fid_linear_classifier",
        "fid_reconstruction_classifier",
        "fid_spherical_classifier",
        "kid_classifier",
        "mode_divergence",
        "modes",
        "precision_classifier",
        "recall_classifier",
        "reconstruction_error",
    }
    of_samples = {"fid_classifier", "kid_classifier", "mode_divergence", "modes"}
    of_samples |= {"precision_classifier", "recall_classifier"}  # of as many test images
    of_samples |= {"fid_linear_classifier", "fid_spherical_classifier"}  # of as many pairs
    for name, value in found.items():
        assert value["interval"] is not None
        assert value["items"] == (50 if name in of_samples else 360)
    assert found["reconstruction_error"]["value"] == 0
    out = capsys.readouterr().out
    assert "conditional_fid: not measured: knows no labels" in out
    assert "condition_accuracy: not measured: knows no labels" in out
    with pytest.raises(UserError, match="conditional_fid: knows no labels"):
        evaluate(str(folder), metrics=["conditional_fid"], samples=50)


def _config(path):
    from tn_core.storage import read_config

    return read_config(path)


# decomposition


def test_terms_without_interval_or_direction():
    model = Tells(decompose=lambda x: {"information": float(len(x)), "entropy": 0.5})
    found = decomposition(model, Items(torch.zeros(7, 2), torch.zeros(7, 1, dtype=torch.long)))
    assert str(found["decomposed_information"]) == "7 nats (7 items)"
    assert found["decomposed_entropy"].as_dict()["interval"] is None
