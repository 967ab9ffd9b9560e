"""The networks whose features are compared: which there are, where their weights come from, what is kept."""

import hashlib
import urllib.error
from typing import ClassVar

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from safetensors.torch import load_file, save

from tn_core.errors import UserError
from tn_core.protocols import Split
from tn_eval import inception
from tn_eval.cache import cached_tensors
from tn_eval.datasets import Digits
from tn_eval.features import Extractor, get_extractor, held_out_features
from tn_eval.inception import find_inception, load_inception

SPEC = {"name": "digits"}


class Pictures:
    """Four random images."""

    labels: ClassVar = {}

    def __init__(self, channels=1):
        self.shape = (channels, 6, 6)
        x = torch.randint(256, (4, *self.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        self.test = Split(x, torch.zeros(4, 0, dtype=torch.long), torch.zeros(4, 0, dtype=torch.bool))

    def split(self, name):
        return self.test


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty one."""
    monkeypatch.setenv("TN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counted():
    """A network that says what it was given: pixel sums and counts of items."""
    seen = []

    def network(x):
        seen.append(x)
        return torch.stack([x.flatten(1).sum(1), torch.ones(len(x))], 1)

    return Extractor("counted", "1", 2, network), seen


# the cache


def test_features_of_held_out_images_are_computed_once(counted, cache):
    extractor, seen = counted
    data = Digits()
    first = held_out_features(extractor, data)
    assert sum(map(len, seen)) == 360
    assert all(x.is_floating_point() and x.max() <= 1 for x in seen)
    expected = data.split("test").x.flatten(1).double().sum(1) / 255
    assert first.dtype == torch.float32
    assert torch.allclose(first[:, 0].double(), expected)
    # hidden labels change nothing
    assert torch.equal(held_out_features(extractor, Digits(missing=0.9)), first)
    assert sum(map(len, seen)) == 360
    (file,) = (cache / "features").iterdir()
    assert file.name.startswith("counted-")
    assert torch.equal(load_file(file)["features"], first)


def test_a_broken_file_is_made_anew(counted, cache):
    extractor, seen = counted
    first = held_out_features(extractor, Pictures())
    (file,) = (cache / "features").iterdir()
    whole = file.read_bytes()
    for times, broken in enumerate(
        [
            b"",
            whole[:-1],
            b"garbage",
            save({"features": first[:3]}),
            save({"features": torch.full_like(first, torch.nan)}),
            save({"other": first}),
        ],
        start=2,
    ):
        file.write_bytes(broken)
        assert torch.equal(held_out_features(extractor, Pictures()), first)
        assert sum(map(len, seen)) == 4 * times
        assert file.read_bytes() == whole
    assert [f.name for f in (cache / "features").iterdir()] == [file.name], "nothing else is left"


def test_features_belong_to_images_and_weights(counted, cache):
    extractor, _ = counted
    held_out_features(extractor, Pictures())
    held_out_features(Extractor("counted", "2", 2, extractor.network), Pictures())
    held_out_features(Extractor("other", "1", 2, extractor.network), Pictures())
    changed = Pictures()
    changed.test.x[0, 0, 0, 0] ^= 1
    held_out_features(extractor, changed)
    held_out_features(extractor, Pictures(3))
    assert len(list((cache / "features").iterdir())) == 5


def test_a_cache_that_cannot_be_written(counted, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set TN_CACHE"):
        held_out_features(counted[0], Pictures())


def test_tensors_that_do_not_fit_are_made_anew(tmp_path):
    def never():
        raise AssertionError

    path = tmp_path / "deep" / "x.safetensors"
    a, b = ({"x": torch.full((2,), value)} for value in (1.0, 2.0))
    assert cached_tensors(path, lambda: a, lambda found: True) is a
    assert torch.equal(cached_tensors(path, never, lambda found: True)["x"], a["x"])
    assert cached_tensors(path, lambda: b, lambda found: False) is b
    assert torch.equal(cached_tensors(path, never, lambda found: True)["x"], b["x"])


# the classifier


def test_features_of_the_classifier(tmp_path, monkeypatch):
    """128 numbers before the last layer, with a covariance of full rank on 360 images; logits follow from them."""
    from tn_eval.classifier import cached_classifier

    data = Digits()
    extractor = get_extractor("classifier", data, SPEC)
    test = data.split("test")
    features = extractor(test.x)
    assert features.shape == (360, 128)
    assert torch.linalg.matrix_rank(features.double().T.cov()) == 128
    classifier = cached_classifier(data, SPEC)
    with torch.no_grad():
        (logits,) = classifier(test.x.float() / 255)
        assert torch.allclose(classifier.head(features), logits, atol=1e-4)
    assert (logits.argmax(1) == test.labels[:, 0]).double().mean() > 0.95
    again = get_extractor("classifier", Digits(missing=0.5), {**SPEC, "missing": 0.5})
    assert again.weights == extractor.weights
    with torch.no_grad():
        classifier.body[-1].bias[0] += 1
    monkeypatch.setattr("tn_eval.features.cached_classifier", lambda data, spec: classifier)
    assert get_extractor("classifier", data, SPEC).weights != extractor.weights


# Inception, with random weights in place of the published ones, which no test can count on


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """A file of weights of the right shapes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda url, **options: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    yield path
    path.unlink()  # 96 MB


@pytest.fixture
def published(random_inception, monkeypatch):
    """Lets the random weights pass for the published ones."""
    digest = hashlib.sha256(random_inception.read_bytes()).hexdigest()
    for module in ("tn_eval.inception", "tn_eval.features"):
        monkeypatch.setattr(f"{module}.SHA256", digest)
    return random_inception


def test_inception_features(published):
    """Grey images are repeated to three channels and rounded to bytes; other numbers of channels are refused."""
    data = Pictures()
    extractor = get_extractor("inception", data, SPEC, inception_weights=str(published))
    features = extractor(data.test.x)
    assert features.shape == (4, 2048)
    network = load_inception(str(published))
    (expected,) = network(data.test.x.repeat(1, 3, 1, 1))
    assert torch.equal(features, expected)
    jittered = (data.test.x / 255 + torch.empty(data.test.x.shape).uniform_(-0.4, 0.4) / 255).double()
    assert torch.equal(extractor(jittered), features), "less than half a step of a byte, and clamped"
    assert not torch.equal(extractor(data.test.x.flip(-1)), features)
    assert torch.equal(held_out_features(extractor, data), features)
    coloured = Pictures(3)
    assert torch.equal(
        get_extractor("inception", coloured, SPEC, str(published))(coloured.test.x), network(coloured.test.x)[0]
    )
    with pytest.raises(ValueError, match="1 or 3 channels, these have 2"):
        get_extractor("inception", Pictures(2), SPEC, str(published))


def test_only_the_published_weights_are_opened(random_inception, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(UserError, match=r"is not the published weights-inception.*SHA-256"):
        load_inception(str(random_inception))


def test_weights_are_downloaded_only_when_asked(random_inception, published, cache, monkeypatch):
    calls = []

    def download(url, target, hash_prefix, progress):
        calls.append(url)
        assert hash_prefix == inception.SHA256
        with open(target, "wb") as file:
            file.write(random_inception.read_bytes())

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    with pytest.raises(UserError, match=r"--inception-weights FILE.*--download true"):
        load_inception()
    assert not calls
    assert not cache.exists()
    first = load_inception(download=True)
    assert len(calls) == 1
    assert calls[0].startswith("https://github.com/toshas/torch-fidelity/")
    second = load_inception()  # from the cache
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    load_inception(download=True)
    assert len(calls) == 1, "it is there already"
    (cache / "inception" / inception.NAME).unlink()


@pytest.mark.parametrize("error", [urllib.error.URLError("no route to host"), RuntimeError("invalid hash value")])
def test_a_download_that_fails(error, monkeypatch):
    def download(*arguments, **options):
        raise error

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    with pytest.raises(UserError, match=r"could not download.*(no route to host|invalid hash value)"):
        load_inception(download=True)


def test_checks_of_inception_before_any_work(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        find_inception(str(tmp_path / "none.pth"), download=True)
    monkeypatch.setattr("tn_eval.inception.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tn-eval\[inception\]'"):
        find_inception(None, download=True)


def test_unknown_features():
    with pytest.raises(ValueError, match="'classifier' or 'inception', got 'resnet'"):
        get_extractor("resnet", Digits(), SPEC)
