"""Data sets of images with labels: scikit-learn's digits and those that torchvision reads into arrays."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tn_core.protocols import SplitName

from .images import DownloadableImages, Images, reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CIFAR10",
    "CIFAR10_CLASSES",
    "MNIST",
    "SVHN",
    "Digits",
    "FashionMNIST",
]

_DIGITS = tuple("0123456789")

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Digits(Images):
    """1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    The 360 test items are a fixed random fifth of every digit. Needs no files.
    """

    shape: tuple[int, ...] = (1, 8, 8)
    labels: Mapping[str, Sequence[str]] = {"digit": _DIGITS}

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        import numpy as np
        from sklearn.datasets import load_digits

        digits = load_digits()
        # 0..16 to 0..255
        x = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        # shuffled, then sorted by digit without disturbing that: every fifth item is a random fifth of each digit
        order = np.random.RandomState(0).permutation(len(x))
        order = order[np.argsort(digits.target[order], kind="stable")]
        test = np.zeros(len(x), dtype=bool)
        test[order[::5]] = True
        chosen = test if name == "test" else ~test
        return x[chosen], digits.target[chosen]


class MNIST(DownloadableImages):
    """60,000 + 10,000 handwritten digits of 28 x 28 pixels."""

    shape: tuple[int, ...] = (1, 28, 28)
    labels: Mapping[str, Sequence[str]] = {"digit": _DIGITS}
    folder = "MNIST"

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        raw = f"{self.folder}/raw"
        kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
        # torchvision wants all four, whichever split is asked for
        self.obtain([f"{raw}/{part}-{kind}" for part in ("train", "t10k") for kind in kinds], self._fetch)
        with reading(self.root / raw):
            source = self._open(name)
        return source.data.numpy()[:, None], source.targets.numpy()

    def _fetch(self) -> object:
        return self._open("train", download=True)

    def _open(self, name: SplitName, download: bool = False) -> Any:
        from torchvision import datasets

        return datasets.MNIST(str(self.root), train=name == "train", download=download)


class FashionMNIST(MNIST):
    """60,000 + 10,000 pieces of clothing of 28 x 28 pixels."""

    labels: Mapping[str, Sequence[str]] = {
        "class": (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        )
    }
    folder = "FashionMNIST"

    def _open(self, name: SplitName, download: bool = False) -> Any:
        from torchvision import datasets

        return datasets.FashionMNIST(str(self.root), train=name == "train", download=download)


class CIFAR10(DownloadableImages):
    """50,000 + 10,000 colour photographs of 32 x 32 pixels in ten classes.

    The files are pickles. They are read only after torchvision has compared them with the published checksums.
    """

    shape: tuple[int, ...] = (3, 32, 32)
    labels: Mapping[str, Sequence[str]] = {"class": CIFAR10_CLASSES}

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        import numpy as np

        folder = "cifar-10-batches-py"
        batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
        self.obtain([f"{folder}/{batch}" for batch in batches], self._fetch)
        with reading(self.root / folder):
            source = self._open(name)
        return source.data.transpose(0, 3, 1, 2), np.array(source.targets)

    def _fetch(self) -> object:
        return self._open("train", download=True)

    def _open(self, name: SplitName, download: bool = False) -> Any:
        from torchvision import datasets

        return datasets.CIFAR10(str(self.root), train=name == "train", download=download)


class SVHN(DownloadableImages):
    """73,257 + 26,032 colour photographs of house numbers, 32 x 32 pixels round one digit."""

    shape: tuple[int, ...] = (3, 32, 32)
    labels: Mapping[str, Sequence[str]] = {"digit": _DIGITS}

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        file = f"{name}_32x32.mat"
        self.obtain([file], lambda: self._open(name, download=True))
        with reading(self.root / file):
            source = self._open(name)
        return source.data, source.labels

    def _open(self, name: SplitName, download: bool = False) -> Any:
        from torchvision import datasets

        return datasets.SVHN(str(self.root), split=name, download=download)
