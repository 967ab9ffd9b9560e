"""What every image data set shares: hidden labels, cached splits, checks, and clear errors about files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tn_core.errors import UserError
from tn_core.protocols import Split, SplitName

if TYPE_CHECKING:  # the command line lists the data sets without importing numpy or torch
    from numpy.typing import NDArray

__all__ = [
    "DownloadableImages",
    "ImageFiles",
    "Images",
    "check_hiding",
    "hide",
    "reading",
]


class Images(ABC):
    r"""Labelled images, some of whose training labels are hidden.

    A subclass sets ``shape`` and ``labels`` and implements :meth:`read`. A label is hidden where a uniform number of
    its own falls below ``missing``: labels of each item are hidden independently, in the same way every time, and
    those hidden at one rate are hidden at every higher rate too.

    Arguments:
        missing: share of the training labels to hide, from 0 to 1; each label of each item on its own.
        missing_seed: seed of the choice of hidden labels.
        train_size: keep only this many training items, a fixed random choice; all of them if not given.
        binarize: make images of zeros and ones, drawn with the grey values as probabilities: test images once and for
            all, training images anew whenever they are used.
    """

    shape: tuple[int, ...]
    labels: Mapping[str, Sequence[str]]

    def __init__(
        self, *, missing: float = 0.0, missing_seed: int = 0, train_size: int | None = None, binarize: bool = False
    ) -> None:
        check_hiding(missing, missing_seed)
        if train_size is not None and train_size < 1:
            raise UserError(f"train_size is at least 1, not {train_size}")
        self.missing = missing
        self.missing_seed = missing_seed
        self.train_size = train_size
        self.binarize = binarize

    def split(self, name: SplitName) -> Split:
        """Returns one part, ``"train"`` or ``"test"``; it is read once and kept."""
        if name == "train":
            return self._train
        if name == "test":
            return self._test
        raise ValueError(f"a split is 'train' or 'test', not {name!r}")

    @abstractmethod
    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        """Returns images, uint8 (items, *shape), and labels, whole numbers (items,) or (items, labels)."""

    @cached_property
    def _train(self) -> Split:
        import numpy as np
        import torch

        x, labels = self._checked("train")
        hidden = hide(labels.shape, self.missing, self.missing_seed)
        if self.train_size is not None:
            if self.train_size > len(x):
                raise UserError(f"train_size is {self.train_size}, but there are only {len(x)} training items")
            # after the draw: an item keeps its hidden labels whatever the size
            kept = np.sort(np.random.RandomState(0).permutation(len(x))[: self.train_size])
            x, labels, hidden = x[kept], labels[kept], hidden[kept]
        return Split(torch.from_numpy(x), torch.from_numpy(labels), torch.from_numpy(hidden), dynamic=self.binarize)

    @cached_property
    def _test(self) -> Split:
        import numpy as np
        import torch

        x, labels = self._checked("test")
        if self.binarize:
            x = np.where(np.random.RandomState(0).random_sample(x.shape) * 255 < x, 255, 0).astype(np.uint8)
        return Split(torch.from_numpy(x), torch.from_numpy(labels), torch.zeros(labels.shape, dtype=torch.bool))

    def _checked(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        import numpy as np

        x, labels = self.read(name)
        x, labels = np.ascontiguousarray(x), labels.astype(np.int64)
        if labels.ndim == 1:
            labels = labels[:, None]
        kind, values = type(self).__name__, [len(names) for names in self.labels.values()]
        if len(x) == 0 or x.dtype != np.uint8 or x.shape[1:] != self.shape:
            raise UserError(f"{kind}: expected uint8 images of shape {self.shape}, its files hold {x.dtype} {x.shape}")
        if labels.shape != (len(x), len(values)):
            raise UserError(f"{kind}: expected labels of shape {(len(x), len(values))}, its files hold {labels.shape}")
        if (labels < -1).any() or (labels >= np.array(values, dtype=np.int64)).any():
            raise UserError(f"{kind}: its files hold labels out of range")
        return x, labels


def check_hiding(missing: float, missing_seed: int) -> None:
    """Raises a UserError if a share of hidden labels, or the seed of their choice, is out of its range."""
    if not 0 <= missing <= 1:
        raise UserError(f"missing is a share from 0 to 1, not {missing}")
    if not 0 <= missing_seed < 2**32:
        raise UserError(f"missing_seed is a whole number from 0 to {2**32 - 1}, not {missing_seed}")


def hide(shape: tuple[int, ...], missing: float, missing_seed: int) -> "NDArray[Any]":
    """Which of so many labels are hidden, bool; those hidden at one rate are hidden at every higher rate too."""
    import numpy as np

    # NumPy promises never to change what RandomState draws, so the same labels are hidden for ever.
    return np.random.RandomState(missing_seed).random_sample(shape) < missing


class ImageFiles(Images):
    """Labelled images read from files.

    Arguments:
        root: folder of the data.
        missing: share of the training labels to hide, from 0 to 1; each label of each item on its own.
        missing_seed: seed of the choice of hidden labels.
        train_size: keep only this many training items, a fixed random choice; all of them if not given.
        binarize: make images of zeros and ones, drawn with the grey values as probabilities: test images once and for
            all, training images anew whenever they are used.
    """

    remedy = "Name the folder that holds the data with --data-root."

    def __init__(
        self,
        *,
        root: str = "data",
        missing: float = 0.0,
        missing_seed: int = 0,
        train_size: int | None = None,
        binarize: bool = False,
    ) -> None:
        super().__init__(missing=missing, missing_seed=missing_seed, train_size=train_size, binarize=binarize)
        self.root = Path(root).expanduser()

    def require(self, *files: str) -> None:
        """Raises a clear error if one of these paths inside the data folder is not there."""
        for file in files:
            if (self.root / file).exists():
                continue
            packed = " (only packed, as .gz: unpack it)" if (self.root / f"{file}.gz").exists() else ""
            raise UserError(f"{type(self).__name__}: no {file} in {self.root.absolute()}{packed}. {self.remedy}")


class DownloadableImages(ImageFiles):
    """Labelled images read from files that torchvision can download.

    Arguments:
        root: folder of the data, laid out as torchvision does.
        download: fetch the files if they are not there.
        missing: share of the training labels to hide, from 0 to 1; each label of each item on its own.
        missing_seed: seed of the choice of hidden labels.
        train_size: keep only this many training items, a fixed random choice; all of them if not given.
        binarize: make images of zeros and ones, drawn with the grey values as probabilities: test images once and for
            all, training images anew whenever they are used.
    """

    remedy = "Fetch it with --data.download true, or name the folder that holds the data with --data-root."

    def __init__(
        self,
        *,
        root: str = "data",
        download: bool = False,
        missing: float = 0.0,
        missing_seed: int = 0,
        train_size: int | None = None,
        binarize: bool = False,
    ) -> None:
        super().__init__(
            root=root, missing=missing, missing_seed=missing_seed, train_size=train_size, binarize=binarize
        )
        self.download = download

    def obtain(self, files: Sequence[str], fetch: Callable[[], object]) -> None:
        """Makes sure that these paths are there, by calling ``fetch`` if that is allowed and needed."""
        if self.download and not all((self.root / file).exists() for file in files):
            try:
                fetch()
            except Exception as error:  # network, checksum, disk, a missing helper package: whatever it is, say it
                raise UserError(f"{type(self).__name__}: could not download it to {self.root}: {error}") from error
        self.require(*files)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever a reader raises over a broken file into one clear error."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each format's reader has its own set of exceptions
        raise UserError(
            f"cannot read {path}: {type(error).__name__}: {error}. If it is broken, delete it and get it again."
        ) from error
