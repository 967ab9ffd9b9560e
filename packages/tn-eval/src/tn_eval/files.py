"""Data sets of images with labels that are read from image folders and plain NumPy files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tn_core.errors import UserError
from tn_core.protocols import SplitName

from .datasets import CIFAR10_CLASSES
from .images import DownloadableImages, ImageFiles, reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CELEBA_ATTRIBUTES",
    "CIFAR10Part",
    "CelebA",
    "Omniglot",
    "Omniglot28",
    "Sprites",
]


@contextmanager
def _archive(path: Path) -> "Iterator[Mapping[str, NDArray[Any]]]":
    """The arrays of an .npz file."""
    import numpy as np

    # opened here because NumPy leaves a file that it opened and could not read open
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        yield data


# Each alphabet and the number of its characters, in the order of their folders.
_BACKGROUND = """
    Alphabet_of_the_Magi 20 Anglo-Saxon_Futhorc 29 Arcadian 26 Armenian 41 Asomtavruli_(Georgian) 40 Balinese 24
    Bengali 46 Blackfoot_(Canadian_Aboriginal_Syllabics) 14 Braille 26 Burmese_(Myanmar) 34 Cyrillic 33
    Early_Aramaic 22 Futurama 26 Grantha 43 Greek 24 Gujarati 48 Hebrew 22
    Inuktitut_(Canadian_Aboriginal_Syllabics) 16 Japanese_(hiragana) 52 Japanese_(katakana) 47 Korean 40 Latin 26
    Malay_(Jawi_-_Arabic) 40 Mkhedruli_(Georgian) 41 N_Ko 33 Ojibwe_(Canadian_Aboriginal_Syllabics) 14 Sanskrit 42
    Syriac_(Estrangelo) 23 Tagalog 17 Tifinagh 55
"""
_EVALUATION = """
    Angelic 20 Atemayar_Qelisayer 26 Atlantean 26 Aurek-Besh 26 Avesta 26 Ge_ez 26 Glagolitic 45 Gurmukhi 45
    Kannada 41 Keble 26 Malayalam 47 Manipuri 40 Mongolian 30 Old_Church_Slavonic_(Cyrillic) 45 Oriya 46 Sylheti 28
    Syriac_(Serto) 23 Tengwar 25 Tibetan 42 ULOG 26
"""


def _alphabets(table: str) -> dict[str, int]:
    words = table.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _characters(table: str) -> list[str]:
    """Names of the characters' folders, ``alphabet/characterNN``."""
    return [f"{name}/character{i:02d}" for name, size in _alphabets(table).items() for i in range(1, size + 1)]


class Omniglot(DownloadableImages):
    """19,280 + 13,180 handwritten characters of 50 alphabets, 28 x 28 pixels, ink is 255.

    The 30 alphabets of the background set are the training split, the other 20 the test split: no alphabet and no
    character is in both. The labels are numbered over both sets together, 50 alphabets and 1,623 characters, so a
    test label is one that training has never seen. For a split with nearly every character on both sides
    see :class:`Omniglot28`. Images are shrunk from 105 x 105 by area average.
    """

    shape: tuple[int, ...] = (1, 28, 28)
    labels: Mapping[str, Sequence[str]] = {
        "alphabet": (*_alphabets(_BACKGROUND), *_alphabets(_EVALUATION)),
        "character": (*_characters(_BACKGROUND), *_characters(_EVALUATION)),
    }

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        import numpy as np
        from PIL import Image

        part = "background" if name == "train" else "evaluation"
        folder = f"omniglot-py/images_{part}"
        self.obtain([folder], lambda: self._fetch(part))
        x, labels = [], []
        for character in _characters(_BACKGROUND if name == "train" else _EVALUATION):
            # a half-unpacked archive must not pass for the whole set
            drawings = sorted((self.root / folder / character).glob("*.png"))
            if not drawings:
                self.require(f"{folder}/{character}")
                raise UserError(f"Omniglot: no drawings in {(self.root / folder / character).absolute()}")
            code = self.labels["character"].index(character)
            alphabet = self.labels["alphabet"].index(character.split("/")[0])
            for path in drawings:
                with reading(path), Image.open(path) as image:
                    x.append(np.asarray(image.convert("L").resize((28, 28), Image.Resampling.BOX)))
                labels.append((alphabet, code))
        return 255 - np.stack(x)[:, None], np.array(labels)

    def _fetch(self, part: str) -> object:
        from torchvision import datasets

        return datasets.Omniglot(str(self.root), background=part == "background", download=True)


_ATTRIBUTES = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young
"""
CELEBA_ATTRIBUTES = tuple(_ATTRIBUTES.split())


class CelebA(DownloadableImages):
    """162,770 + 19,962 faces with 40 attributes, the centre 160 x 160 pixels shrunk to 64 x 64.

    The pictures are decoded once, into a file beside them, and are read from there by memory mapping afterwards.

    Arguments:
        root: folder of the data, laid out as torchvision does.
        download: fetch the files if they are not there.
        attributes: names of the attributes to use as labels, in this order; all 40 if not given.
        missing: share of the training labels to hide, from 0 to 1; each label of each item on its own.
        missing_seed: seed of the choice of hidden labels.
        train_size: keep only this many training items, a fixed random choice; all of them if not given.
        binarize: make images of zeros and ones, drawn with the grey values as probabilities: test images once and for
            all, training images anew whenever they are used.
    """

    shape: tuple[int, ...] = (3, 64, 64)

    def __init__(
        self,
        *,
        root: str = "data",
        download: bool = False,
        attributes: list[str] | None = None,
        missing: float = 0.0,
        missing_seed: int = 0,
        train_size: int | None = None,
        binarize: bool = False,
    ) -> None:
        super().__init__(
            root=root,
            download=download,
            missing=missing,
            missing_seed=missing_seed,
            train_size=train_size,
            binarize=binarize,
        )
        chosen = CELEBA_ATTRIBUTES if attributes is None else attributes
        for name in chosen:
            if name not in CELEBA_ATTRIBUTES:
                by_lower = {known.lower(): known for known in CELEBA_ATTRIBUTES}
                near = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
                hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(CELEBA_ATTRIBUTES)}"
                raise UserError(f"CelebA has no attribute {name!r}; {hint}")
        if len(set(chosen)) < len(chosen):
            raise UserError(f"attributes names one twice: {', '.join(chosen)}")
        self.labels = dict.fromkeys(chosen, ("no", "yes"))

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        import numpy as np

        parts, attributes = "celeba/list_eval_partition.txt", "celeba/list_attr_celeba.txt"
        self.obtain([parts, attributes, "celeba/img_align_celeba"], self._fetch)
        wanted = "0" if name == "train" else "2"
        with reading(self.root / parts):
            rows = map(str.split, (self.root / parts).read_text().splitlines())
            pictures = [picture for picture, part in rows if part == wanted]
            if not pictures:
                raise ValueError(f"it lists no picture of part {wanted}")
        with reading(self.root / attributes):
            # the number of pictures, the names of the attributes, then a picture a line with -1 or 1 for each
            _, header, *lines = (self.root / attributes).read_text().splitlines()
            columns = [1 + header.split().index(label) for label in self.labels]
            values = {}
            for fields in map(str.split, lines):
                values[fields[0]] = [{"-1": 0, "1": 1}[fields[column]] for column in columns]
            labels = np.array([values[picture] for picture in pictures], dtype=np.int64)
        return self._pictures(name, pictures), labels.reshape(len(pictures), len(columns))

    def _fetch(self) -> object:
        from torchvision import datasets

        return datasets.CelebA(str(self.root), split="test", download=True)

    def _pictures(self, name: SplitName, pictures: Sequence[str]) -> "NDArray[Any]":
        """The decoded pictures, from the cache if it is there."""
        import numpy as np

        folder = self.root / "celeba"
        cache = folder / f"{name}_160_to_64.npy"
        shape = (len(pictures), *self.shape)
        if cache.exists():
            with reading(cache):
                # copy on write: a tensor has to be writable, the file has to stay as it is
                x: NDArray[Any] = np.load(cache, mmap_mode="c", allow_pickle=False)
            if x.shape == shape and x.dtype == np.uint8:
                return x
        paths = [folder / "img_align_celeba" / picture for picture in pictures]
        part = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")
        try:
            out = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
            with ThreadPoolExecutor() as pool:
                for start in range(0, len(paths), 1024):
                    chunk = list(pool.map(_face, paths[start : start + 1024]))
                    out[start : start + len(chunk)] = chunk
            out.flush()
            os.replace(part, cache)
        except OSError as error:
            raise UserError(f"CelebA: cannot write its decoded pictures to {cache}: {error}") from error
        finally:
            part.unlink(missing_ok=True)
        x = np.load(cache, mmap_mode="c", allow_pickle=False)
        return x


def _face(path: Path) -> "NDArray[Any]":
    import numpy as np
    from PIL import Image

    with reading(path), Image.open(path) as image:
        if image.size != (178, 218):
            raise UserError(f"CelebA: {path} is {image.size[0]} x {image.size[1]}, not the aligned 178 x 218")
        face = image.convert("RGB").crop((9, 29, 169, 189)).resize((64, 64), Image.Resampling.BILINEAR)
    pixels: NDArray[Any] = np.asarray(face)
    return pixels.transpose(2, 0, 1)


class Sprites(ImageFiles):
    """23,328 pixel-art characters of 64 x 64 pixels with six labels.

    A character is a combination of body, bottomwear, topwear and hair. A fixed random tenth of the 1,296 characters
    is the test split, with all its actions and directions: no test character is seen in training. The values of the
    four attributes have no names, only numbers. Reads ``sprites/sprites64.npz``.

    Arguments:
        root: folder of the data.
        size: pixels a side, 64, or 32 by area average: a quarter of the work.
        missing: share of the training labels to hide, from 0 to 1; each label of each item on its own.
        missing_seed: seed of the choice of hidden labels.
        train_size: keep only this many training items, a fixed random choice; all of them if not given.
        binarize: make images of zeros and ones, drawn with the grey values as probabilities: test images once and for
            all, training images anew whenever they are used.
    """

    shape: tuple[int, ...] = (3, 64, 64)
    labels: Mapping[str, Sequence[str]] = {
        "body": tuple("012345"),
        "bottomwear": tuple("012345"),
        "topwear": tuple("012345"),
        "hair": tuple("012345"),
        "action": ("walk", "spellcard", "slash"),
        "direction": ("front", "left", "right"),
    }

    def __init__(
        self,
        *,
        root: str = "data",
        size: Literal[32, 64] = 64,
        missing: float = 0.0,
        missing_seed: int = 0,
        train_size: int | None = None,
        binarize: bool = False,
    ) -> None:
        super().__init__(
            root=root, missing=missing, missing_seed=missing_seed, train_size=train_size, binarize=binarize
        )
        if size not in (32, 64):
            raise UserError(f"size is 32 or 64, not {size}")
        self.shape = (3, size, size)

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        import numpy as np

        file = "sprites/sprites64.npz"
        self.require(file)
        with _archive(self.root / file) as data:
            names = (*data["attribute_names"], "action", "direction")
            values = (self.labels["action"], self.labels["direction"])
            if names != tuple(self.labels) or (tuple(data["action_names"]), tuple(data["direction_names"])) != values:
                raise UserError(f"Sprites: {self.root / file} names other labels than {', '.join(self.labels)}")
            labels = np.column_stack([data["attributes"], data["action"], data["direction"]])
            _, character = np.unique(data["attributes"], axis=0, return_inverse=True)
            character = character.reshape(-1)  # NumPy 2.0 alone returns a column
            order = np.random.RandomState(0).permutation(character.max() + 1)
            test = np.isin(character, order[: round(len(order) / 10)])
            chosen = test if name == "test" else ~test
            indices, palette = data["images"][chosen], data["palette"]
            # a channel at a time: the colours of all pictures at once would be needed twice over
            x = np.empty((len(indices), *self.shape), dtype=np.uint8)
            for channel in range(3):
                pixels = palette[:, channel][indices]
                if self.shape[-1] == 32:
                    pixels = np.rint(pixels.reshape(-1, 32, 2, 32, 2).mean((2, 4)))
                x[:, channel] = pixels
        return x, labels[chosen]


class Omniglot28(ImageFiles):
    """24,345 + 8,070 handwritten characters of 28 x 28 pixels, a random split of all Omniglot.

    The split has the sizes that papers on likelihoods use. The one label is the character, 1,623 values named by the
    original numbers; nearly all of them are in both splits. Reads ``omniglot28/omniglot28.npz``.
    """

    shape: tuple[int, ...] = (1, 28, 28)
    labels: Mapping[str, Sequence[str]] = {"character": tuple(f"{i:04d}" for i in range(1, 1624))}

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        file = "omniglot28/omniglot28.npz"
        self.require(file)
        with _archive(self.root / file) as data:
            index = data[f"{name}_index"]
            return data["images"][index][:, None], data["character"][index]


class CIFAR10Part(ImageFiles):
    """30,000 + 1,000 images of CIFAR-10, bit by bit the first of each split.

    Reads ``cifar10_lossless``: ``train_images.npy``, ``train_labels.npy`` and those of ``test`` if they are there,
    else the packed ``train_*.webp``, ``test_*.webp`` and ``labels.npz``.
    """

    shape: tuple[int, ...] = (3, 32, 32)
    labels: Mapping[str, Sequence[str]] = {"class": CIFAR10_CLASSES}

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        import numpy as np
        from PIL import Image

        folder = self.root / "cifar10_lossless"
        tiles = sorted(folder.glob(f"{name}_*.webp"))
        images, labels = f"{name}_images.npy", f"{name}_labels.npy"
        if (folder / images).exists() or not tiles:
            self.require(f"{folder.name}/{images}", f"{folder.name}/{labels}")
            with reading(folder / images):
                x = np.load(folder / images, allow_pickle=False).transpose(0, 3, 1, 2)
            with reading(folder / labels):
                return x, np.load(folder / labels, allow_pickle=False)
        self.require(f"{folder.name}/labels.npz")
        parts = []
        for path in tiles:
            with reading(path), Image.open(path) as tile:
                # 25 rows of 40 images
                grid = np.asarray(tile.convert("RGB")).reshape(25, 32, 40, 32, 3)
            parts.append(grid.transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32))
        with _archive(folder / "labels.npz") as data:
            return np.concatenate(parts), data[name]
