"""Data sets read from image folders and plain NumPy files, on tiny files in their exact formats."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tn_core.errors import UserError
from tn_eval.files import CELEBA_ATTRIBUTES, CelebA, CIFAR10Part, Omniglot, Omniglot28, Sprites

# Omniglot


def drawing(ink):
    """A drawing in the format of the set: one bit a pixel, paper is 1."""
    out = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert("1").save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    """One blank drawing of every character; two drawings of the first, the left and the upper half inked."""
    root = tmp_path_factory.mktemp("omniglot")
    ink = np.zeros((105, 105), dtype=bool)
    blank = drawing(ink)
    for i, character in enumerate(Omniglot.labels["character"]):
        part = "images_background" if i < 964 else "images_evaluation"
        folder = root / "omniglot-py" / part / character
        folder.mkdir(parents=True)
        (folder / f"{i + 1:04d}_01.png").write_bytes(blank)
    first = root / "omniglot-py" / "images_background" / Omniglot.labels["character"][0]
    ink[:, :47] = True  # 3.75 pixels become one: 12 whole ones, then two of the next four
    (first / "0001_01.png").write_bytes(drawing(ink))
    (first / "0001_02.png").write_bytes(drawing(ink.T))
    return root


def test_omniglot(omniglot, capfd):
    data = Omniglot(root=str(omniglot), download=True)
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (965, 659)
    expected = torch.zeros(28, 28, dtype=torch.uint8)
    expected[:, :12] = 255
    expected[:, 12] = 127
    assert torch.equal(train.x[0, 0], expected)
    assert torch.equal(train.x[1, 0], expected.T)
    assert not train.x[2:].any()
    assert not test.x.any()
    assert train.labels[:, 1].tolist() == [0, *range(964)]
    assert test.labels[:, 1].tolist() == list(range(964, 1623))
    alphabets, characters = data.labels.values()
    for split in (train, test):
        for alphabet, character in split.labels.tolist():
            assert characters[character].startswith(f"{alphabets[alphabet]}/character")
    assert not set(train.labels[:, 0].tolist()) & set(test.labels[:, 0].tolist())
    assert capfd.readouterr() == ("", "")


def test_omniglot_counts():
    assert len(set(Omniglot.labels["alphabet"])) == 50
    assert len(set(Omniglot.labels["character"])) == 1623


@pytest.mark.parametrize("empty", [True, False])
def test_omniglot_half_unpacked(omniglot, tmp_path, empty):
    shutil.copytree(omniglot, tmp_path / "copy")
    folder = tmp_path / "copy/omniglot-py/images_evaluation/ULOG/character26"
    shutil.rmtree(folder)
    if empty:
        folder.mkdir()
    with pytest.raises(UserError, match="ULOG/character26"):
        Omniglot(root=str(tmp_path / "copy")).split("test")


def test_omniglot_broken_drawing(omniglot, tmp_path):
    shutil.copytree(omniglot, tmp_path / "copy")
    file = tmp_path / "copy/omniglot-py/images_background/Tifinagh/character55/0964_01.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match=r"0964_01\.png"):
        Omniglot(root=str(tmp_path / "copy")).split("train")


# CelebA

PARTS = "0001020"  # 0 train, 1 validation, 2 test


@pytest.fixture
def celeba(tmp_path):
    """Seven faces: red outside the crop, inside blue on the left and as green as their number on the right."""
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    attributes = np.random.default_rng(0).integers(0, 2, (len(PARTS), 40))
    for i in range(len(PARTS)):
        pixels = np.zeros((218, 178, 3), dtype=np.uint8)
        pixels[..., 0] = 255
        pixels[29:189, 9:89] = (0, 0, 255)
        pixels[29:189, 89:169] = (0, 30 * i, 0)
        path = folder / "img_align_celeba" / f"{i + 1:06d}.jpg"
        Image.fromarray(pixels).save(path, "JPEG", quality=100, subsampling=0)
    names = [f"{i + 1:06d}.jpg" for i in range(len(PARTS))]
    lines = [f"{name}  {' '.join(f'{2 * a - 1:2d}' for a in row)}" for name, row in zip(names, attributes, strict=True)]
    text = "\n".join([str(len(PARTS)), " ".join(CELEBA_ATTRIBUTES) + " ", *lines, ""])
    (folder / "list_attr_celeba.txt").write_text(text)
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, PARTS, strict=True)))
    return tmp_path, attributes


def test_celeba(celeba, capfd):
    root, attributes = celeba
    data = CelebA(root=str(root), download=True, missing=1.0)
    for name, rows in (("train", [0, 1, 2, 4, 6]), ("test", [5])):
        split = data.split(name)
        assert split.x.dtype == torch.uint8
        assert np.array_equal(split.labels.numpy(), attributes[rows])
        # nothing of the frame is left; JPEG smears by a few pixels
        assert (split.x[:, 0] < 100).all()
        assert (split.x[:, 2, 4:-4, 4:28] > 245).all()
        right = split.x[:, 1, 4:-4, 36:-4].double()
        assert (right - 30 * torch.tensor(rows)[:, None, None]).abs().max() < 8
    assert capfd.readouterr() == ("", "")


def test_celeba_decodes_once(celeba):
    root, _ = celeba
    before = CelebA(root=str(root)).split("train").x.clone()
    for picture in (root / "celeba/img_align_celeba").iterdir():
        picture.write_bytes(b"gone")
    (cache,) = (root / "celeba").glob("train*.npy")
    stored = cache.read_bytes()
    again = CelebA(root=str(root)).split("train").x
    assert torch.equal(again, before)
    assert len(CelebA(root=str(root), train_size=2).split("train")) == 2
    again.zero_()
    assert cache.read_bytes() == stored, "what a user does to the tensor must not reach the file"


def test_celeba_decodes_again_when_the_list_has_changed(celeba):
    root, _ = celeba
    CelebA(root=str(root)).split("train")
    parts = root / "celeba/list_eval_partition.txt"
    parts.write_text(parts.read_text().replace("000004.jpg 1", "000004.jpg 0"))
    assert len(CelebA(root=str(root)).split("train")) == 6


@pytest.mark.parametrize("break_it", ["picture", "size", "gone"])
def test_celeba_broken_picture_leaves_no_cache(celeba, break_it):
    root, _ = celeba
    picture = root / "celeba/img_align_celeba/000005.jpg"
    if break_it == "picture":
        picture.write_bytes(picture.read_bytes()[:300])
    elif break_it == "size":
        Image.new("RGB", (218, 178)).save(picture, "JPEG")
    else:
        picture.unlink()
    with pytest.raises(UserError, match=r"000005\.jpg"):
        CelebA(root=str(root)).split("train")
    files = {path.name for path in (root / "celeba").iterdir()}
    assert files == {"img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"}


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("list_attr_celeba.txt", lambda text: text.replace("Smiling", "Frowning")),
        ("list_attr_celeba.txt", lambda text: text[:-30]),
        ("list_attr_celeba.txt", lambda text: text.replace(" 1", " 3")),
        ("list_attr_celeba.txt", lambda text: text.replace("000001.jpg", "999999.jpg")),
        ("list_attr_celeba.txt", lambda text: ""),
        ("list_eval_partition.txt", lambda text: text.replace(" ", "")),
        ("list_eval_partition.txt", lambda text: ""),
    ],
)
def test_celeba_broken_lists(celeba, file, change):
    path = celeba[0] / "celeba" / file
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=file.replace(".", r"\.")):
        CelebA(root=str(celeba[0])).split("train")


def test_celeba_broken_cache(celeba):
    root, _ = celeba
    CelebA(root=str(root)).split("test")
    (cache,) = (root / "celeba").glob("test*.npy")
    cache.write_bytes(cache.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"test_.*\.npy.*delete it"):
        CelebA(root=str(root)).split("test")


def test_celeba_attributes(celeba):
    root, attributes = celeba
    data = CelebA(root=str(root), attributes=["Young", "Bald"])
    assert data.labels == {"Young": ("no", "yes"), "Bald": ("no", "yes")}
    assert np.array_equal(data.split("test").labels.numpy(), attributes[[5]][:, [39, 4]])
    assert CelebA(root=str(root), attributes=[]).split("train").labels.shape == (5, 0)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (["Bald", "smilling"], "'smilling'; did you mean Smiling"),
        (["Hat"], "Wearing_Hat"),
        (["zzz"], "there are 5_o_Clock_Shadow, .*Young"),
        (["Bald", "Bald"], "twice"),
    ],
)
def test_celeba_unknown_attributes(attributes, message):
    with pytest.raises(UserError, match=message):
        CelebA(root="nowhere", attributes=attributes)


# sprites


def sprites():
    """Forty characters of two bodies, one bottomwear, four topwears and five hairs, in two pictures each."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(range(2), [3], range(4), range(5), indexing="ij"), -1).reshape(-1, 4)
    count = 2 * len(grid)
    return {
        "images": random.integers(0, 7, (count, 64, 64)).astype(np.uint8),
        "palette": random.integers(0, 256, (7, 3)).astype(np.uint8),
        "attributes": np.repeat(grid, 2, axis=0).astype(np.uint8),
        "action": random.integers(0, 3, count).astype(np.uint8),
        "direction": random.integers(0, 3, count).astype(np.uint8),
        "attribute_names": np.array(["body", "bottomwear", "topwear", "hair"]),
        "action_names": np.array(["walk", "spellcard", "slash"]),
        "direction_names": np.array(["front", "left", "right"]),
    }


def save(path, arrays):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


def test_sprites(tmp_path, capfd):
    arrays = sprites()
    save(tmp_path / "sprites/sprites64.npz", arrays)
    data = Sprites(root=str(tmp_path))
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (72, 8)
    characters = [{tuple(row) for row in split.labels[:, :4].tolist()} for split in (train, test)]
    assert [len(some) for some in characters] == [36, 4]
    assert not characters[0] & characters[1]
    colours = arrays["palette"][arrays["images"]].transpose(0, 3, 1, 2)
    labels = np.column_stack([arrays["attributes"], arrays["action"], arrays["direction"]])
    in_test = np.array([tuple(row) in characters[1] for row in arrays["attributes"].tolist()])
    for split, chosen in ((train, ~in_test), (test, in_test)):
        assert np.array_equal(split.x.numpy(), colours[chosen])
        assert np.array_equal(split.labels.numpy(), labels[chosen])
    again = Sprites(root=str(tmp_path), size=32)
    small = again.split("test")
    assert torch.equal(small.labels, test.labels)
    assert again.shape == small.x.shape[1:] == (3, 32, 32)
    means = torch.nn.functional.avg_pool2d(test.x.double(), 2)
    assert (small.x - means).abs().max() <= 0.5
    with pytest.raises(UserError, match="size is 32 or 64, not 48"):
        Sprites(root=str(tmp_path), size=48)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "change",
    [
        {"attribute_names": np.array(["hair", "bottomwear", "topwear", "body"])},
        {"action_names": np.array(["walk", "spellcard", "sleep"])},
        {"palette": np.zeros((6, 3), np.uint8)},
        {"action": np.full(80, 3, np.uint8)},
        {"action": np.zeros(79, np.uint8)},
        {"direction": np.array([{}] * 80, dtype=object)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_unexpected_sprites(tmp_path, change):
    save(tmp_path / "sprites/sprites64.npz", sprites() | change)
    with pytest.raises(UserError, match=r"[Ss]prites"):
        Sprites(root=str(tmp_path)).split("train")


# Omniglot at 28 x 28


@pytest.fixture
def omniglot28(tmp_path):
    random = np.random.default_rng(0)
    order = random.permutation(30).astype(np.int32)
    arrays = {
        "images": random.integers(0, 256, (30, 28, 28)).astype(np.uint8),
        "character": random.integers(0, 1623, 30).astype(np.int16),
        "train_index": order[:20],
        "test_index": order[20:28],
    }
    return save(tmp_path / "omniglot28/omniglot28.npz", arrays), arrays


def test_omniglot28(omniglot28):
    path, arrays = omniglot28
    data = Omniglot28(root=str(path.parent.parent))
    for name, size in (("train", 20), ("test", 8)):
        split, index = data.split(name), arrays[f"{name}_index"]
        assert len(split) == size
        assert np.array_equal(split.x.numpy()[:, 0], arrays["images"][index])
        assert np.array_equal(split.labels.numpy()[:, 0], arrays["character"][index])
    assert len(data.labels["character"]) == 1623


@pytest.mark.parametrize("kept", [0, 10, 2000])
@pytest.mark.parametrize("kind", [Omniglot28, Sprites])
def test_truncated_npz(tmp_path, omniglot28, kind, kept):
    path = save(tmp_path / "sprites/sprites64.npz", sprites()) if kind is Sprites else omniglot28[0]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=rf"{path.name}.*delete it"):
        kind(root=str(tmp_path)).split("train")


# the part of CIFAR-10


@pytest.fixture
def part():
    random = np.random.default_rng(0)
    sizes = {"train": 2000, "test": 1000}
    images = {name: random.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8) for name, size in sizes.items()}
    return images, {name: random.integers(0, 10, size).astype(np.uint8) for name, size in sizes.items()}


def write_tiles(folder, images, labels):
    folder.mkdir()
    for name, pixels in images.items():
        for i in range(0, len(pixels), 1000):
            grid = pixels[i : i + 1000].reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3)
            Image.fromarray(grid).save(folder / f"{name}_{i // 1000:02d}.webp", lossless=True, quality=0, method=0)
    np.savez(folder / "labels.npz", **labels, classes=np.array(CIFAR10Part.labels["class"]))


def write_arrays(folder, images, labels):
    folder.mkdir()
    for name, pixels in images.items():
        np.save(folder / f"{name}_images.npy", pixels)
        np.save(folder / f"{name}_labels.npy", labels[name])


@pytest.mark.parametrize("write", [write_tiles, write_arrays])
def test_cifar10_part(tmp_path, part, write, capfd):
    images, labels = part
    write(tmp_path / "cifar10_lossless", images, labels)
    data = CIFAR10Part(root=str(tmp_path))
    for name in ("train", "test"):
        split = data.split(name)
        assert np.array_equal(split.x.numpy().transpose(0, 2, 3, 1), images[name])
        assert np.array_equal(split.labels.numpy()[:, 0], labels[name])
        assert split.x.is_contiguous()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("write", "file", "match"),
    [
        (write_tiles, "train_01.webp", r"train_01\.webp"),
        (write_tiles, "labels.npz", r"labels\.npz"),
        (write_arrays, "train_images.npy", r"train_images\.npy"),
        (write_arrays, "train_labels.npy", r"train_labels\.npy"),
    ],
)
def test_broken_cifar10_part(tmp_path, part, write, file, match):
    path = tmp_path / "cifar10_lossless" / file
    write(path.parent, *part)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=match):
        CIFAR10Part(root=str(tmp_path)).split("train")


@pytest.mark.parametrize(("write", "file"), [(write_tiles, "labels.npz"), (write_arrays, "test_labels.npy")])
def test_cifar10_part_without_labels(tmp_path, part, write, file):
    write(tmp_path / "cifar10_lossless", *part)
    (tmp_path / "cifar10_lossless" / file).unlink()
    with pytest.raises(UserError, match=f"no cifar10_lossless/{file}"):
        CIFAR10Part(root=str(tmp_path)).split("test")


def test_cifar10_part_missing_tile(tmp_path, part):
    write_tiles(tmp_path / "cifar10_lossless", *part)
    (tmp_path / "cifar10_lossless/train_00.webp").unlink()
    with pytest.raises(UserError, match="labels of shape"):
        CIFAR10Part(root=str(tmp_path)).split("train")
