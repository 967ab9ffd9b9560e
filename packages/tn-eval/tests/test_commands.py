"""``tn sample | impute | evaluate`` on a stranger's model that offers the protocols, and their answers to bad input."""

import csv
import json
import math

import pytest
import torch
from PIL import Image

from tn_core.errors import UserError
from tn_core.protocols import Split
from tn_eval.classifier import accuracy, cached_classifier
from tn_eval.commands import evaluate, impute, parse_labels, sample
from tn_eval.datasets import Digits
from tn_eval.metrics import Value, bound_elbo, bound_iwae, condition_accuracy, imputation
from tn_eval.pictures import save_grid

HAIR = {"digit": ["0", "1", "2"], "hair": ["blond", "brown", "black"]}


def test_evaluate_measures_what_the_model_offers(run, host, capsys):
    folder = run()
    evaluate(str(folder), iwae_samples=10, iwae_items=50, condition_items=200, samples=500)
    found = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert set(found) == {
        "brier_score",
        "calibration_error",
        "condition_accuracy",
        "conditional_fid_classifier",
        "classifier_accuracy",
        "elbo",
        "fid_classifier",
        "imputation_accuracy",
        "imputation_log_score",
        "iwae_10",
        "kid_classifier",
        "mode_divergence",
        "modes",
        "precision_classifier",
        "recall_classifier",
    }
    # images of the training set in the class asked for, seen by a classifier that was trained on them
    assert found["condition_accuracy"]["value"] > 97
    assert found["classifier_accuracy"]["value"] > 95
    # nearest neighbours get 96 to 99 % of these digits
    assert found["imputation_accuracy"]["value"] > 95
    share = found["imputation_accuracy"]["value"] / 100
    score = share * math.log(0.9) + (1 - share) * math.log(0.1 / 9)
    assert found["imputation_log_score"]["value"] == pytest.approx(score, rel=1e-5)
    x = Digits().split("test").x.float() / 255
    assert found["elbo"]["value"] == pytest.approx(float(-x.flatten(1).sum(1).mean()), rel=1e-5)
    assert found["iwae_10"]["items"] == 50
    assert "metrics: " in capsys.readouterr().out


def test_evaluate_again_gives_the_same(run):
    folder = run()
    evaluate(str(folder), metrics=["condition_accuracy"], condition_items=50)
    first = (folder / "metrics.json").read_text()
    evaluate(str(folder), metrics=["condition_accuracy"], condition_items=50)
    assert (folder / "metrics.json").read_text() == first


def test_a_model_that_ignores_the_labels_is_found_out(host):
    """The condition accuracy of unconditional samples is that of chance: 10 %, within 5 standard errors."""
    model = host.get("models", "Memory")()
    data = Digits()
    wrapped = type("Ignores", (), {"sample": lambda self, count, y=None: model.sample(count)})()
    value = condition_accuracy(wrapped, data, {"name": "digits"}, items=1000)["condition_accuracy"]
    assert abs(value.value - 10) < 5 * 100 * math.sqrt(0.1 * 0.9 / 1000)


def test_hidden_labels_do_not_reach_the_metrics(host):
    """Imputation is measured with every label hidden from the model."""
    model = host.get("models", "Memory")()
    seen = []

    def spy(x, y=None):
        seen.append(y)
        return model.impute(x)

    imputation(type("Spy", (), {"impute": lambda self, x, y=None: spy(x, y)})(), Digits())
    assert all(bool((y == -1).all()) for y in seen)


def test_intervals_are_those_of_the_mean():
    torch.manual_seed(0)
    value = Value.of(torch.randn(10_000), "nats", "higher")
    assert value.interval == pytest.approx(1.96 / 100, rel=0.05)
    assert value.items == 10_000


def test_impute_writes_the_unknown_labels(run, capsys):
    folder = run()
    impute(str(folder))
    data = Digits(missing=0.5).split("train")
    rows = list(csv.DictReader((folder / "imputed.csv").open()))
    assert [int(row["item"]) for row in rows] == data.hidden[:, 0].nonzero().flatten().tolist()
    # the nearest remembered image of a training image is itself
    assert [int(row["value"]) for row in rows] == data.labels[data.hidden].tolist()
    assert all(row["label"] == "digit" and row["probability"] == "0.9000" for row in rows)
    assert "100.00 %" in capsys.readouterr().out


def test_impute_labels_together(run, host, monkeypatch, capsys):
    folder = run()
    with pytest.raises(UserError, match="Memory cannot complete"):
        impute(str(folder), together=True)
    model = host.get("models", "Memory")

    def complete(self, x, y):
        return torch.full((len(x), 1), 4), torch.full((len(x),), math.log(0.25))

    monkeypatch.setattr(model, "complete", complete, raising=False)
    impute(str(folder), together=True)
    rows = list(csv.DictReader((folder / "imputed.csv").open()))
    assert len(rows) == int(Digits(missing=0.5).split("train").hidden.sum())
    assert {(row["value"], row["probability"]) for row in rows} == {("4", "0.2500")}


def test_impute_the_test_split(run, tmp_path):
    impute(str(run()), split="test", out=str(tmp_path / "test.csv"))
    assert len(list(csv.DictReader((tmp_path / "test.csv").open()))) == len(Digits().split("test"))


def test_sample_a_row_a_cluster(run, host, monkeypatch):
    folder = run()
    with pytest.raises(UserError, match="Memory has no clusters"):
        sample(str(folder), rows="clusters", count=4)
    model, asked = host.get("models", "Memory"), []
    original = model.sample
    monkeypatch.setattr(model, "clusters", 3, raising=False)
    monkeypatch.setattr(model, "sample", lambda self, count, *, cluster: asked.append(cluster) or original(self, count))
    sample(str(folder), rows="clusters", count=4)
    assert asked == [0, 1, 2]
    with Image.open(folder / "samples.png") as picture:
        assert picture.size == (4 * 34 + 2, 3 * 34 + 2)


def test_sample_a_row_a_value(run, tmp_path, host):
    folder = run()
    sample(str(folder), rows="digit", count=4)
    with Image.open(folder / "samples.png") as picture:
        assert picture.size == (4 * 34 + 2, 10 * 34 + 2)  # 8x8 enlarged fourfold, borders of 2
    asked = []
    model = host.get("models", "Memory")
    original = model.sample
    try:
        model.sample = lambda self, count, y=None: asked.append(y) or original(self, count, y)
        sample(str(folder), labels="digit=3|5", count=9, out=str(tmp_path / "some.png"))
        sample(str(folder), count=9, out=str(tmp_path / "any.png"))
    finally:
        model.sample = original
    assert asked[0][0].tolist() == [False, False, False, True, False, True, False, False, False, False]
    assert asked[1] is None
    sample(str(folder), count=9, out=str(tmp_path / "again.png"))
    assert (tmp_path / "any.png").read_bytes() == (tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("digit=1", {"digit": [1]}),
        ("hair=!blond", {"hair": [1, 2]}),
        ("hair=blond|black,digit=0", {"hair": [0, 2], "digit": [0]}),
        ("hair=!blond|black", {"hair": [1]}),
    ],
)
def test_parse_labels(text, expected):
    assert parse_labels(text, HAIR) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", "expected LABEL=VALUE"),
        ("beard=yes", "labels digit, hair"),
        ("digit=7", "no value '7'; it has 0, 1, 2"),
        ("hair=!blond|brown|black", "rules out every value"),
    ],
)
def test_parse_labels_errors(text, message):
    with pytest.raises(UserError, match=message):
        parse_labels(text, HAIR)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: sample(str(f), count=0), "count"),
        (lambda f: sample(str(f), out=str(f / "x.jpg")), "must be a .png"),
        (lambda f: sample(str(f), out=str(f / "no" / "x.png")), "no folder"),
        (lambda f: sample(str(f), rows="hair"), "no label is called 'hair'; known: digit"),
        (lambda f: sample(str(f), labels="digit=12"), "no value '12'"),
        (lambda f: impute(str(f), out=str(f)), "is a folder"),
        (lambda f: evaluate(str(f), metrics=["elbw"]), "did you mean elbo"),
        (lambda f: evaluate(str(f), iwae_samples=0), "iwae_samples must be at least 1"),
        (lambda f: evaluate(str(f), device="tpu"), "device must be auto, cpu, cuda.*got 'tpu'"),
        (lambda f: evaluate(str(f), samples=1), "samples must be at least 2"),
        (lambda f: evaluate(str(f), download=True), "add --features inception"),
        (lambda f: evaluate(str(f), inception_weights="w.pth"), "add --features inception"),
        (lambda f: evaluate(str(f), features="inception"), "--inception-weights FILE.*--download true"),
        (lambda f: evaluate(str(f), features="inception", inception_weights="no/w.pth"), "there is no file no/w.pth"),
        (lambda f: evaluate(str(f), metrics=["fid"], features="resnet"), "'classifier' or 'inception', got 'resnet'"),
        (lambda f: evaluate(str(f / "nowhere")), "is not a folder"),
    ],
)
def test_errors_leave_nothing_behind(run, call, message):
    folder = run()
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(UserError, match=message):
        call(folder)
    assert sorted(p.name for p in folder.iterdir()) == before


def test_models_that_offer_too_little(run, capsys):
    folder = run("Blank")
    with pytest.raises(UserError, match="Blank cannot sample"):
        sample(str(folder))
    with pytest.raises(UserError, match="Blank cannot impute"):
        impute(str(folder))
    with pytest.raises(UserError, match="nothing was measured"):
        evaluate(str(folder))
    with pytest.raises(UserError, match="does not offer what the metric 'elbo' needs"):
        evaluate(str(folder), metrics=["elbo"])
    folder = run(folder="other")
    with pytest.raises(UserError, match="does not offer what the metric 'clustering' needs"):
        evaluate(str(folder), metrics=["elbo", "clustering"])
    assert "elbo" not in capsys.readouterr().out, "nothing is measured in vain"


def test_a_metric_that_the_model_refuses_is_named(run, host, monkeypatch, capsys):
    def refuse(self, x, y=None):
        raise ValueError("needs labels")

    monkeypatch.setattr(host.get("models", "Memory"), "elbo", refuse)
    folder = run()
    evaluate(str(folder), condition_items=10, samples=100)
    assert "elbo: not measured: needs labels" in capsys.readouterr().out
    assert "elbo" not in json.loads((folder / "metrics.json").read_text())["metrics"]
    with pytest.raises(UserError, match="elbo: needs labels"):
        evaluate(str(folder), metrics=["elbo"])


def test_the_classifier_is_trained_once(host, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TN_CACHE", str(tmp_path / "cache"))
    data, spec = Digits(), {"name": "digits"}
    first = cached_classifier(data, spec)
    assert "training the classifier" in capsys.readouterr().err
    # what is hidden from the model does not matter to the classifier
    second = cached_classifier(Digits(missing=0.9), {**spec, "missing": 0.9})
    assert capsys.readouterr().err == ""
    x = data.split("test").x
    y = data.split("test").labels
    assert torch.equal(accuracy(first, x, y), accuracy(second, x, y))
    # a broken file is trained anew, not trusted
    (file,) = (tmp_path / "cache" / "classifiers").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    cached_classifier(data, spec)
    assert "training the classifier" in capsys.readouterr().err
    monkeypatch.setenv("TN_CACHE", str(file))  # below a file nothing can be written
    with pytest.raises(UserError, match="TN_CACHE"):
        cached_classifier(data, {"name": "digits", "other": 1})


def test_accuracy_counts_known_labels_only(host):
    classifier = cached_classifier(Digits(), {"name": "digits"})
    test = Digits().split("test")
    assert accuracy(classifier, test.x[:5], torch.full((5, 1), -1)).isnan().all()


def test_bounds_use_every_item(host):
    model = host.get("models", "Memory")()
    elbo = bound_elbo(model, Digits(), batch_size=7)["elbo"]
    assert elbo.items == 360
    assert bound_iwae(model, Digits(), samples=3, items=10_000)["iwae_3"].value == pytest.approx(
        elbo.value + math.log(3), rel=1e-5
    )


def test_a_sorted_test_set_does_not_bend_the_bound(host):
    """Fewer items are a random choice: their mean stays within 5 standard errors of that of all."""
    model = host.get("models", "Memory")()
    digits = Digits().split("test")
    order = digits.x.flatten(1).sum(1).argsort()
    ordered = Split(digits.x[order], digits.labels[order], digits.hidden[order])
    data = type("Sorted", (), {"split": lambda self, name: ordered})()
    every = bound_elbo(model, data)["elbo"]
    some = bound_iwae(model, data, samples=1, items=100)["iwae_1"]
    assert abs(some.value - every.value) < 5 * some.interval / 1.96


def test_grid_errors(tmp_path):
    with pytest.raises(UserError, match="needs images"):
        save_grid(torch.rand(4, 2, 8, 8), tmp_path / "x.png", 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_grid(torch.rand(4, 1, 8, 8), tmp_path / "file" / "x.png", 2)
