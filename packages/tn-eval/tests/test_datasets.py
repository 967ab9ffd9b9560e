"""Hidden labels, checks and errors of all data sets; scikit-learn's digits; what torchvision reads into arrays."""

import gzip
import importlib
import inspect
import math
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from tn_core.errors import UserError
from tn_core.protocols import Data, SplitName
from tn_eval import datasets, files, plugin, synthetic
from tn_eval.datasets import CIFAR10, MNIST, SVHN, Digits, FashionMNIST
from tn_eval.images import DownloadableImages, ImageFiles, Images


def resolve(target):
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


# what is made of another data set has tests of its own: test_brightness.py
OF_OTHERS = ("brightness", "counts", "stacked")  # made of another data set
KINDS = {name: resolve(target) for name, target in plugin.datasets().items() if name not in OF_OTHERS}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


class Toy(Images):
    """Images whose labels and pixels follow from their position."""

    shape = (1, 2, 2)
    labels: Mapping[str, Sequence[str]] = {"low": tuple("01234"), "high": tuple("0123456")}

    def __init__(self, size=4000, **arguments):
        super().__init__(**arguments)
        self.size = size
        self.reads = []

    def read(self, name: SplitName):
        self.reads.append(name)
        items = np.arange(self.size)
        x = np.broadcast_to((items % 251).astype(np.uint8)[:, None, None, None], (self.size, 1, 2, 2))
        return x, np.stack([items % 5, items % 7], axis=1)


def hoeffding(draws, error_rate=1e-9):
    """A mean of independent draws from [0, 1] is further than this from its expectation with this probability."""
    return math.sqrt(math.log(2 / error_rate) / (2 * draws))


# hidden labels


@pytest.mark.parametrize("missing", [0.05, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_share_of_hidden_labels(missing, seed):
    hidden = Toy(missing=missing, missing_seed=seed).split("train").hidden.double()
    # 24 hypotheses, each wrongly rejected with probability 1e-9
    assert abs(hidden.mean() - missing) < hoeffding(hidden.numel())
    both = hidden.prod(1)
    assert abs(both.mean() - missing**2) < hoeffding(len(both)), "labels of an item are hidden independently"


def test_hidden_labels_are_the_same_every_time():
    # written out, so that no later version hides others: a run's record names only the rate and the seed
    expected = [[True, False], [False, True], [True, False]]
    for _ in range(2):
        assert Toy(3, missing=0.6).split("train").hidden.tolist() == expected


def test_hidden_labels_do_not_touch_the_global_random_states():
    states = torch.get_rng_state(), np.random.get_state()[1]
    Digits(missing=0.5, train_size=10).split("train")
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_hidden_labels_depend_on_the_seed():
    hidden = [Toy(missing=0.5, missing_seed=seed).split("train").hidden for seed in (0, 1)]
    differ = (hidden[0] != hidden[1]).double()
    assert abs(differ.mean() - 0.5) < hoeffding(differ.numel())


def test_hidden_labels_are_nested():
    rates = [0.0, 0.1, 0.1001, 0.5, 0.9, 1.0]
    hidden = [Toy(missing=rate, missing_seed=3).split("train").hidden for rate in rates]
    for fewer, more in pairwise(hidden):
        assert not (fewer & ~more).any()
    assert not hidden[0].any()
    assert hidden[-1].all()


def test_observed_is_what_is_not_hidden():
    split = Toy(missing=0.4).split("train")
    assert (split.observed[split.hidden] == -1).all()
    assert torch.equal(split.observed[~split.hidden], split.labels[~split.hidden])
    assert (split.labels >= 0).all()


def test_labels_of_the_test_split_are_never_hidden():
    assert not Toy(missing=1.0).split("test").hidden.any()


# splits


def test_train_size_keeps_items_with_their_labels():
    whole = Toy(missing=0.5).split("train")
    previous = None
    for size in (1, 50, 3000, 4000):
        part = Toy(missing=0.5, train_size=size).split("train")
        assert len(part) == size
        # pixels, mod 5 and mod 7 tell the 4,000 positions apart (251 * 5 * 7 = 8,785)
        keys = torch.cat([part.x[:, 0, 0, :1].long(), part.labels], 1)
        whole_keys = torch.cat([whole.x[:, 0, 0, :1].long(), whole.labels], 1)
        positions = [(whole_keys == key).all(1).nonzero().item() for key in keys[:50]]
        assert torch.equal(part.hidden[:50], whole.hidden[positions])
        chosen = {tuple(key) for key in keys.tolist()}
        assert previous is None or previous < chosen, "a smaller choice is part of a larger one"
        previous = chosen


def test_train_size_leaves_the_test_split_alone():
    assert len(Toy(train_size=5).split("test")) == 4000


def test_splits_are_read_once_and_only_when_asked_for():
    toy = Toy()
    assert toy.reads == []
    assert toy.split("test") is toy.split("test")
    assert toy.split("train") is toy.split("train")
    assert toy.reads == ["test", "train"]
    assert len(pickle.loads(pickle.dumps(toy)).split("train")) == 4000


def test_unknown_split():
    with pytest.raises(ValueError, match="'valid'"):
        Toy().split("valid")


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.zeros((2, 1, 2, 2), np.float32), np.zeros((2, 2), int), "uint8"),
        (np.zeros((2, 1, 2, 3), np.uint8), np.zeros((2, 2), int), r"shape \(1, 2, 2\)"),
        (np.zeros((0, 1, 2, 2), np.uint8), np.zeros((0, 2), int), "shape"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros((3, 2), int), "labels of shape"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, int), "labels of shape"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.array([[0, 0], [5, 0]]), "out of range"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.array([[0, 0], [-2, 0]]), "out of range"),
    ],
)
@pytest.mark.parametrize("name", ["train", "test"])
def test_unexpected_contents(monkeypatch, x, labels, message, name):
    monkeypatch.setattr(Toy, "read", lambda self, name: (x, labels))
    with pytest.raises(UserError, match=message):
        Toy().split(name)


# every data set


@every_kind
def test_is_data_without_reading_a_file(kind, tmp_path):
    data = kind(root=str(tmp_path / "nowhere")) if issubclass(kind, ImageFiles) else kind()
    assert isinstance(data, Data)
    assert len(data.shape) == (1 if issubclass(kind, synthetic.Drawn) else 3)
    for name, values in data.labels.items():
        assert isinstance(name, str)
        assert len(values) == len(set(values)) > 1


@every_kind
def test_every_argument_is_a_keyword_with_a_line_of_help(kind):
    documented = "".join(inspect.getdoc(parent) or "" for parent in kind.__mro__)
    assert (kind.__doc__ or "").strip()
    for parameter in inspect.signature(kind).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.annotation is not parameter.empty
        assert f"    {parameter.name}: " in documented


@every_kind
@pytest.mark.parametrize(
    "arguments",
    [
        {"missing": -0.1},
        {"missing": 1.1},
        {"missing": math.nan},
        {"missing_seed": -1},
        {"missing_seed": 2**32},
        {"train_size": 0},
    ],
    ids=str,
)
def test_bad_arguments(kind, arguments):
    (name,) = arguments
    with pytest.raises(UserError, match=name):
        kind(**arguments)


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if issubclass(kind, ImageFiles)])
@pytest.mark.parametrize("name", ["train", "test"])
def test_missing_files(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        kind(root="empty").split(name)
    message = str(caught.value)
    assert f"in {tmp_path / 'empty'}" in message
    assert "--data-root" in message
    assert ("--data.download true" in message) == issubclass(kind, DownloadableImages)
    assert "\n" not in message
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if issubclass(kind, DownloadableImages)])
@pytest.mark.parametrize("name", ["train", "test"])
def test_downloads_only_when_asked(kind, name, tmp_path, monkeypatch):
    calls = []

    def offline(self, *args, **kwargs):
        calls.append(kind)
        raise OSError("no route to host")

    monkeypatch.setattr(getattr(torchvision.datasets, kind.__name__), "download", offline)
    with pytest.raises(UserError):
        kind(root=str(tmp_path)).split(name)
    assert not calls
    with pytest.raises(UserError, match=r"could not download.*no route to host"):
        kind(root=str(tmp_path), download=True).split(name)
    assert calls


def test_naming_data_sets_imports_nothing_heavy():
    heavy = ["torch", "torchvision", "sklearn", "numpy", "PIL", "lightning"]
    modules = "tn_eval.plugin, tn_eval.files, tn_eval.synthetic"
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in {heavy}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_registers_every_data_set():
    classes = [
        kind for module in (datasets, files, synthetic) for _, kind in inspect.getmembers(module, inspect.isclass)
    ]
    found = {kind for kind in classes if issubclass(kind, Images) and not inspect.isabstract(kind)}
    assert found == set(KINDS.values())


# scikit-learn's digits


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    source = load_digits()
    data = Digits()
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.x.dtype == torch.uint8
    # every item is in exactly one split, with its label and, on the scale of 0 to 16, its pixels
    found = []
    for split in (train, test):
        pixels = (split.x.double() * 16 / 255).round().long().flatten(1)
        found += [(*row, *label) for row, label in zip(pixels.tolist(), split.labels.tolist(), strict=True)]
    pairs = zip(source.data.astype(int).tolist(), source.target.tolist(), strict=True)
    assert sorted(found) == sorted((*row, label) for row, label in pairs)
    assert train.x.max() == 255


def test_digits_split_is_stratified():
    data = Digits()
    train, test = (torch.bincount(data.split(name).labels[:, 0], minlength=10) for name in ("train", "test"))
    assert ((test - (train + test) / 5).abs() < 1).all()


# MNIST and FashionMNIST


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(params=[MNIST, FashionMNIST])
def idx(request, tmp_path):
    """The kind, its folder, and what was written: images and labels by split."""
    random = np.random.default_rng(0)
    folder = tmp_path / request.param.__name__ / "raw"
    folder.mkdir(parents=True)
    written = {}
    for name, part, size in (("train", "train", 12), ("test", "t10k", 7)):
        written[name] = random.integers(0, 256, (size, 28, 28)), np.arange(size) % 10
        write_idx(folder / f"{part}-images-idx3-ubyte", written[name][0])
        write_idx(folder / f"{part}-labels-idx1-ubyte", written[name][1])
    return request.param, folder, written


def test_idx(idx, tmp_path, capfd):
    kind, _, written = idx
    data = kind(root=str(tmp_path), download=True, missing=0.5)  # nothing to fetch: it is all there
    for name, (images, labels) in written.items():
        split = data.split(name)
        assert split.x.dtype == torch.uint8
        assert split.labels.dtype == torch.long
        assert np.array_equal(split.x.numpy()[:, 0], images)
        assert np.array_equal(split.labels.numpy()[:, 0], labels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("break_it", ["truncate", "garbage", "empty", "fewer labels", "label 10", "29 pixels"])
def test_broken_idx(idx, tmp_path, break_it):
    kind, folder, (images, labels) = idx[0], idx[1], idx[2]["train"]
    image_file, label_file = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    if break_it == "truncate":
        image_file.write_bytes(image_file.read_bytes()[:-1])
    elif break_it == "garbage":
        image_file.write_bytes(b"<html>not found</html>")
    elif break_it == "empty":
        image_file.write_bytes(b"")
    elif break_it == "fewer labels":
        write_idx(label_file, labels[:-1])
    elif break_it == "label 10":
        write_idx(label_file, labels + 1)
    else:
        write_idx(image_file, np.pad(images, [(0, 0), (0, 1), (0, 1)]))
    with pytest.raises(UserError, match=r"raw|MNIST: "):
        kind(root=str(tmp_path)).split("train")
    assert len(kind(root=str(tmp_path)).split("test")) == 7


def test_packed_idx(idx, tmp_path):
    kind, folder, _ = idx
    file = folder / "t10k-labels-idx1-ubyte"
    file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte .*\.gz: unpack it"):
        kind(root=str(tmp_path)).split("train")


def test_train_size_beyond_the_data(idx, tmp_path):
    with pytest.raises(UserError, match=r"13.*only 12"):
        idx[0](root=str(tmp_path), train_size=13).split("train")


# CIFAR-10


class Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def write_cifar(root, batch):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps(batch(name)))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CIFAR10.labels["class"])}))


def test_cifar10(tmp_path, monkeypatch, capfd):
    random = np.random.default_rng(0)
    batches = {}

    def batch(name):
        pixels = random.integers(0, 256, (4, 3072), dtype=np.uint8)
        batches[name] = {"data": pixels, "labels": random.integers(0, 10, 4).tolist()}
        return batches[name]

    write_cifar(tmp_path, batch)
    # the published checksums cannot hold for made-up batches; that they are looked at is tested below
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: os.path.isfile(path))
    data = CIFAR10(root=str(tmp_path), download=True)
    test = batches.pop("test_batch")
    for name, parts in (("train", list(batches.values())), ("test", [test])):
        split = data.split(name)
        assert np.array_equal(split.x.numpy().reshape(-1, 3072), np.concatenate([part["data"] for part in parts]))
        assert split.labels[:, 0].tolist() == [label for part in parts for label in part["labels"]]
    assert capfd.readouterr() == ("", "")


def test_cifar10_unpickles_nothing_with_a_wrong_checksum(tmp_path):
    write_cifar(tmp_path, lambda name: Trap(tmp_path / "sprung"))
    with pytest.raises(UserError, match="cifar-10-batches-py"):
        CIFAR10(root=str(tmp_path)).split("train")
    assert not (tmp_path / "sprung").exists()


# SVHN


def test_svhn(tmp_path, monkeypatch, capfd):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (32, 32, 3, 11), dtype=np.uint8)
    y = np.arange(11, dtype=np.uint8)[:, None] % 10 + 1  # the files say 10 for a nought
    for name in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{name}_32x32.mat", {"X": x, "y": y})
    monkeypatch.setattr(torchvision.datasets.svhn, "check_integrity", lambda path, md5=None: os.path.isfile(path))
    split = SVHN(root=str(tmp_path), download=True).split("test")
    assert np.array_equal(split.x.numpy(), x.transpose(3, 2, 0, 1))
    assert split.labels[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert SVHN.labels["digit"][int(split.labels[9, 0])] == "0"
    assert capfd.readouterr() == ("", "")


def test_broken_svhn(tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file, but not quite")
    with pytest.raises(UserError, match=r"train_32x32\.mat"):
        SVHN(root=str(tmp_path)).split("train")


def test_binary_images_are_drawn_once_for_the_test_and_anew_for_training():
    grey, binary = Digits(), Digits(binarize=True)
    test = binary.split("test").x
    assert set(test.unique().tolist()) == {0, 255}
    assert torch.equal(test, Digits(binarize=True).split("test").x)
    # frequencies are the grey values: 23,040 pixels, by their grey value, within five standard errors
    for value in grey.split("test").x.unique().tolist():
        found = test[grey.split("test").x == value].float() / 255
        p = value / 255
        assert abs(float(found.mean()) - p) <= 5 * (p * (1 - p) / len(found)) ** 0.5 + 1e-9
    assert binary.split("train").dynamic
    assert not grey.split("train").dynamic
    assert torch.equal(binary.split("train").x, grey.split("train").x)
    assert not binary.split("test").dynamic
