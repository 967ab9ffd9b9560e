"""Wholes taken apart and put together: what is kept when parts come and go."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tn_compvae import Composition, CompVAE, PartsMLP
from tn_compvae.aggregations import Mean
from tn_core.protocols import Interval

SETS = torch.tensor([[2, 0, 2, 1], [4, -1, -1, -1], [3, 3, 1, -1], [-1, -1, -1, -1]])


def model(**arguments: Any) -> CompVAE:
    return CompVAE(PartsMLP((12,), 3, [5] * 4, global_features=2, hidden=16, embedding=4), **arguments).double().eval()


def same(one: Composition, two: Composition) -> bool:
    values = zip((*one.parts, *one[1:]), (*two.parts, *two[1:]), strict=True)
    return all(torch.equal(a, b) for a, b in values)


def test_wholes_are_drawn_as_the_model_says() -> None:
    m = model()
    composition = m.compose(torch.tensor([2, 0, -1]), 20_000)
    assert composition.latents.shape == (20_000, 3, 3)
    p = m.p_parts(composition.parts)
    standard = ((composition.latents - p.mean) / p.stddev)[:, :2].flatten(1)
    whole = composition.whole
    for values in (standard, whole):  # standard normal, by 5 deviations of means and variances
        assert values.mean(0).abs().max() < 5 / math.sqrt(20_000)
        assert (values.var(0) - 1).abs().max() < 5 * math.sqrt(2 / 20_000)
    assert (torch.corrcoef(torch.cat([standard, whole], 1).T) - torch.eye(8)).abs().max() < 5 / math.sqrt(20_000)
    # what decodes it: the sum of the parts that are there, and z of its normal given that sum
    w = composition.latents[:, :2].sum(1)
    p_z = m.p_whole(w)
    expected = m.p_data(p_z.mean + p_z.stddev * whole, w).mean
    torch.testing.assert_close(m.decode(composition), expected)
    torch.manual_seed(3)
    x = m.sample(5, SETS[0])
    torch.manual_seed(3)
    assert torch.equal(m.decode(m.compose(SETS[0], 5)), x)


def test_what_is_added_can_be_removed() -> None:
    m = model()
    before = m.compose(SETS)
    more = m.add(before, torch.tensor([1, 3]))
    assert more.parts.category.tolist() == [[*row, 1, 3] for row in SETS.tolist()]
    assert torch.equal(more.latents[:, :4], before.latents)
    assert torch.equal(more.whole, before.whole)
    assert not torch.allclose(m.decode(more), m.decode(before))
    assert same(m.remove(more, [4, 5]), before)
    assert same(m.remove(before, []), before)
    # nothing added is nothing changed
    empty = m.add(before, torch.tensor([-1, -1]))
    torch.testing.assert_close(m.decode(empty), m.decode(before), rtol=0, atol=1e-12)


def test_parts_move_from_whole_to_whole_with_their_latents() -> None:
    m = model()
    one, two = m.compose(SETS), m.compose(SETS.flip(0))
    both = m.add(one, two)
    assert torch.equal(both.latents, torch.cat([one.latents, two.latents], 1))
    back = m.remove(both, range(4))
    assert torch.equal(back.latents, two.latents)
    assert torch.equal(back.parts.category, two.parts.category)
    assert torch.equal(back.whole, one.whole)  # what is particular to the whole stays with the whole
    with pytest.raises(ValueError, match="there are 4 wholes, parts to add were given for 2"):
        m.add(one, m.compose(SETS[:2]))
    with pytest.raises(ValueError, match=r"must be long \(4, places\)"):
        m.add(one, SETS[:2])


def test_exchanged_parts_leave_the_others_as_they_were() -> None:
    m = model()
    before = m.compose(SETS)
    after = m.recompose(before, [1, 2], torch.tensor([4]))
    assert after.parts.category.tolist() == [[2, 1, 4], [4, -1, 4], [3, -1, 4], [-1, -1, 4]]
    assert torch.equal(after.latents[:, :2], before.latents[:, [0, 3]])
    assert torch.equal(after.whole, before.whole)
    for wrong in ([4], [-1]):
        with pytest.raises(ValueError, match=r"there are places 0\.\.3"):
            m.remove(before, wrong)


def test_wholes_are_taken_apart_by_the_posterior() -> None:
    m, x = model(), torch.randn(4, 12, dtype=torch.float64)
    torch.manual_seed(5)
    found = m.extract(x, SETS)
    torch.manual_seed(5)
    nodes = m.noise(x, 4).nodes
    z = m.q_whole(x).mean
    q = m.q_parts(x, z, found.parts, nodes, m.p_parts(found.parts))
    assert torch.equal(found.latents, q.mean)
    p_z = m.p_whole(found.latents.sum(1))
    torch.testing.assert_close(p_z.mean + p_z.stddev * found.whole, z)
    w = found.latents.where(found.parts.present.unsqueeze(-1), 0).sum(1)
    torch.testing.assert_close(m.decode(found), m.p_data(z, w).mean)
    with pytest.raises(ValueError, match=r"must be long \(4, places\)"):
        m.extract(x, SETS[:3])


def test_any_aggregation_composes() -> None:
    m = model(aggregation=Mean())
    before = m.compose(SETS)
    torch.testing.assert_close(m.decode(m.remove(m.add(before, torch.tensor([1])), [4])), m.decode(before))


def test_parts_with_numbers_compose() -> None:
    m = CompVAE(PartsMLP((12,), 3, [5, Interval(-1, 1), Interval(0, 2)] * 2, hidden=16)).eval()
    y = torch.tensor([[3, -0.5, 1.5, math.nan, math.nan, math.nan]])
    composition = m.recompose(m.add(m.compose(y), torch.tensor([[1, 0.0, 0.0]])), [0], torch.tensor([0, 0.5, 2.0]))
    assert composition.parts.category.tolist() == [[-1, 1, 0]]
    assert composition.parts.numbers.tolist() == [[[0, 0], [0, 0], [0.5, 2]]]
    assert m.decode(composition).shape == (1, 12)
    assert m.sample(3).shape == (3, 12)
    mask = torch.tensor([False, True, False, False, False])
    assert m.sample(3, [mask, torch.tensor(0.5), None, None, None, None]).shape == (3, 12)
    # p(w | l) depends on the numbers
    one, two = (m.p_parts(m.schema.read(torch.tensor([1, a, 0.0]))).mean for a in (-1.0, 1.0))
    assert (one - two).abs().max() > 1e-4


def test_quantiles() -> None:
    m = model()
    y = torch.tensor([2, 0, 2])
    found = m.quantiles(y, [0.1, 0.5, 0.9], count=4000)
    assert found.shape == (3, 12)
    assert (found[0] < found[1]).all()
    assert (found[1] < found[2]).all()
    x = m.sample(4000, y, noise=True)
    share = (x < found.unsqueeze(1)).double().mean(1)
    # two samples of 4,000: 5 deviations of the difference
    expected = torch.tensor([0.1, 0.5, 0.9]).double().unsqueeze(1)
    assert (share - expected).abs().max() < 5 * math.sqrt(2 * 0.25 / 4000)
    # without the noise of p(x | z, w) there is less spread
    assert (m.sample(4000, y).std(0) < x.std(0)).all()
    for wrong in ([], [-0.1], [1.5]):
        with pytest.raises(ValueError, match="levels must be numbers from 0 to 1"):
            m.quantiles(y, wrong)


@torch.no_grad()
def test_a_whole_of_its_parts_extracted_and_one_removed(trained: CompVAE) -> None:
    # trained on sines: the wave that is left has the frequency of the part that is left
    from tn_compvae import Sines

    data = Sines(parts=3, frequencies=4, length=50)
    y = torch.tensor([[0, 3]]).expand(200, -1)
    x = data.simulate(y, data.hidden(y, torch.Generator().manual_seed(1)))
    found = trained.extract(x, y)

    def power(x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs().square().mean(0)[1:5]

    both, left = power(trained.decode(found)), power(trained.decode(trained.remove(found, [1])))
    assert set(both.topk(2).indices.tolist()) == {0, 3}
    assert left.argmax() == 0
    assert left[3] < 0.3 * both[3]
