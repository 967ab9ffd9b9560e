"""Nearest training images: which, in which order, and the picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from tn_core.errors import UserError
from tn_eval.datasets import Digits
from tn_eval.neighbours import nearest, neighbours


def test_nearest_are_those_of_all_distances():
    generator = torch.Generator().manual_seed(0)
    points, among = torch.rand(5, 3, generator=generator), torch.rand(23_000, 3, generator=generator)
    distances = (points.double()[:, None] - among.double()).square().sum(-1)
    found = nearest(points, among, 4)
    assert found.shape == (5, 4)
    assert torch.allclose(distances.gather(1, found), distances.sort(1).values[:, :4], atol=1e-6)


def test_bytes_stand_for_the_unit_interval():
    among = torch.tensor([[0], [128], [255]], dtype=torch.uint8)
    assert nearest(torch.tensor([[0.9], [0.4]]), among, 3).tolist() == [[2, 1, 0], [1, 0, 2]]


def _tiles(path, rows, columns):
    """The images of a grid, (rows, columns, 8, 8), of digits enlarged four times with a border of two."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (rows * 34 + 2, columns * 34 + 2)
    return np.stack(
        [[pixels[2 + 34 * r :: 4][:8, 2 + 34 * c :: 4][:, :8] for c in range(columns)] for r in range(rows)]
    )


@pytest.mark.parametrize("by", ["pixels", "classifier"])
def test_one_that_remembers_is_found_out(run, by, tmp_path, capsys):
    folder, path = run("Memory"), tmp_path / "n.png"
    neighbours(str(folder), count=3, nearest_images=2, by=by, labels="digit=3", out=str(path))
    assert capsys.readouterr().out.endswith(f"neighbours: {path}\n")
    tiles = _tiles(path, 3, 3)
    train = Digits().split("train")
    threes = {x.numpy().tobytes() for x in train.x[train.labels[:, 0] == 3][:, 0]}
    everything = {x.numpy().tobytes() for x in train.x[:, 0]}
    for sample, first, second in tiles:
        assert sample.tobytes() in threes
        assert np.array_equal(sample, first)  # what is remembered is nearest to itself
        assert not np.array_equal(first, second)
        assert second.tobytes() in everything
    neighbours(str(folder), count=3, nearest_images=2, by=by, labels="digit=3", out=str(tmp_path / "again.png"))
    assert path.read_bytes() == (tmp_path / "again.png").read_bytes()


def test_default_picture(run):
    folder = run("Memory")
    neighbours(str(folder))
    _tiles(folder / "neighbours.png", 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count"),
        ({"nearest_images": 0}, "nearest_images"),
        ({"nearest_images": 2000}, "1437 training images, fewer than 2000"),
        ({"labels": "digit=12"}, "no value '12'"),
        ({"out": "n.gif"}, "must be a .png file"),
        ({"seed": -1}, "seed"),
    ],
)
def test_errors(run, options, message):
    with pytest.raises(UserError, match=message):
        neighbours(str(run("Memory")), **options)
