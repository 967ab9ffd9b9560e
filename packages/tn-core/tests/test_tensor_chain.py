"""The learnable chain: shapes, starts, gradients, round trips."""

import copy
import math
from typing import Literal

import pytest
import torch
from tn_core_oracle import log_weights, states_of
from torch import Tensor

from tn_core import TensorChain, log_partition, marginals, mode
from tn_core.chain import Boundary, Grouped

Start = Literal["mixture", "random"]
SIZES = [3, 2, 3, 4, 2]


def listed(chain: TensorChain) -> list[Tensor]:
    """The cores in order, as the oracle takes them."""
    found: dict[int, Tensor] = {k: g[i] for ks, g in chain.cores.plain.groups for i, k in enumerate(ks)}
    return [found[k].detach() for k in range(len(found))]


def some_evidence(rows: int = 4) -> Tensor:
    evidence = torch.randn(rows, len(SIZES), 4)
    exists = torch.arange(4) < torch.tensor(SIZES).unsqueeze(1)
    return torch.where(exists, evidence, -torch.inf)


@pytest.mark.parametrize("start", ["mixture", "random"])
@pytest.mark.parametrize("boundary", ["ring", "train"])
@pytest.mark.parametrize("sizes", [[1], [3], [2, 2], SIZES])
def test_shapes(sizes: list[int], boundary: Boundary, start: Start) -> None:
    chain = TensorChain(sizes, 3, boundary, start=start)
    assert isinstance(chain.cores, Grouped)
    assert chain.cores.sizes == tuple(sizes)
    cores = listed(chain)
    assert [tuple(g.shape) for g in cores] == [(size, 3, 3) for size in sizes]
    assert all((g > 0).all() for g in cores)
    assert chain.log_partition().shape == ()
    assert chain.marginals().shape == (len(sizes), max(sizes))
    assert chain.sample(sample_shape=(7, 2)).shape == (7, 2, len(sizes))
    states, log_weight = chain.mode()
    assert (states.shape, log_weight.shape) == ((len(sizes),), ())


@pytest.mark.parametrize("start", ["mixture", "random"])
@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_methods_are_the_functions_on_its_cores(boundary: Boundary, start: Start) -> None:
    chain = TensorChain(SIZES, 3, boundary, start=start).double()
    evidence = some_evidence().double()
    log_w = log_weights(listed(chain), boundary, evidence)
    torch.testing.assert_close(chain.log_partition(evidence), log_w.logsumexp(-1))
    torch.testing.assert_close(chain.marginals(evidence), marginals(listed(chain), evidence, boundary=boundary))
    torch.testing.assert_close(
        chain.marginals(evidence, own_evidence=False),
        marginals(listed(chain), evidence, boundary=boundary, own_evidence=False),
    )
    found = chain.mode(evidence, beam=2, variables=[0, 3])
    expected = mode(listed(chain), evidence, boundary=boundary, beam=2, variables=[0, 3])
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    # an observed state comes back
    one_hot = torch.nn.functional.one_hot(torch.tensor([2, 0, 1, 3, 1]), 4).double().log()
    assert (chain.sample(one_hot, (10,)) == torch.tensor([2, 0, 1, 3, 1])).all()


@pytest.mark.parametrize("start", ["mixture", "random"])
@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_gradient_of_every_parameter(boundary: Boundary, start: Start) -> None:
    chain = TensorChain(SIZES, 3, boundary, start=start)
    assert len(list(chain.parameters())) == len(set(SIZES))  # variables of equal size share one
    (chain.log_partition(some_evidence()).sum() - 4 * chain.log_partition()).backward()  # type: ignore[no-untyped-call]
    for name, parameter in chain.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("start", ["mixture", "random"])
@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_a_few_steps_raise_the_likelihood(boundary: Boundary, start: Start) -> None:
    """Two states are to be learned: the log-likelihood goes from below uniform to near log 1/2."""
    chain = TensorChain([3, 2, 3], 3, boundary, start=start)
    data = torch.tensor([[0, 1, 2], [2, 0, 0]])
    evidence = torch.nn.functional.one_hot(data, 3).float().log()
    optimizer = torch.optim.Adam(chain.parameters(), 0.1)
    losses = []
    for _ in range(200):
        loss = chain.log_partition() - chain.log_partition(evidence[:, :, :3]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.2
    assert losses[-1] < math.log(2) + 0.1


@pytest.mark.parametrize("start", ["mixture", "random"])
def test_not_learnable(start: Start) -> None:
    chain = TensorChain(SIZES, 3, start=start, learnable=False)
    assert not any(p.requires_grad for p in chain.parameters())
    assert chain.state_dict().keys() == TensorChain(SIZES, 3).state_dict().keys()
    evidence = some_evidence().requires_grad_()
    chain.log_partition(evidence).sum().backward()  # type: ignore[no-untyped-call]
    assert evidence.grad is not None
    assert evidence.grad.isfinite().all()


@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_state_dict_round_trip(boundary: Boundary, learnable: bool) -> None:
    chain = TensorChain(SIZES, 3, boundary)
    other = TensorChain(SIZES, 3, boundary, start="random", learnable=learnable)
    evidence = some_evidence()
    assert not torch.allclose(other.log_partition(evidence), chain.log_partition(evidence))
    assert other.load_state_dict(chain.state_dict()).missing_keys == []
    assert all(torch.equal(chain.state_dict()[name], value) for name, value in other.state_dict().items())
    torch.testing.assert_close(other.log_partition(evidence), chain.log_partition(evidence))


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_deepcopy_shares_nothing(boundary: Boundary) -> None:
    chain = TensorChain(SIZES, 3, boundary)
    twin = copy.deepcopy(chain)
    before = chain.log_partition().detach().clone()
    assert torch.equal(twin.log_partition(), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(chain.log_partition(), before)
    assert not torch.allclose(twin.log_partition(), before)


def test_double_and_float() -> None:
    chain = TensorChain(SIZES, 3)
    single = chain.log_partition(some_evidence().zero_().log_softmax(-1)).detach()
    assert single.dtype == torch.float32
    double = chain.double().log_partition(some_evidence().zero_().double().log_softmax(-1)).detach()
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)
    assert chain.marginals().dtype == torch.float64
    assert chain.mode()[1].dtype == torch.float64


def test_the_seed_decides_the_start() -> None:
    def first(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return TensorChain(SIZES, 3).log_partition()

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("boundary", ["ring", "train"])
@pytest.mark.parametrize("sizes", [[3], [2, 2, 2], SIZES])
def test_set_mixture_writes_the_mixture(sizes: list[int], boundary: Boundary) -> None:
    chain = TensorChain(sizes, 4, boundary).double()
    weights = torch.tensor([0.2, 3.0, 0.0, 1.0]).double()  # not normalised, one component is not used
    tables = [torch.rand(4, size).double() for size in sizes]
    copies = [weights.clone(), *(t.clone() for t in tables)]
    chain.set_mixture(weights, tables, noise=0)
    expected = torch.zeros(math.prod(sizes)).double()
    states = states_of(sizes)
    for a in range(4):
        product = weights[a] / weights.sum()
        for k, table in enumerate(tables):
            product = product * (table[a] / table[a].sum())[states[:, k]]
        expected += product
    # entries off the diagonal are 1e-12 instead of 0: fewer than a hundred paths use one
    found = log_weights(listed(chain), boundary, None).exp()
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    assert abs(chain.log_partition().item()) < 1e-9
    assert all(torch.equal(x, y) for x, y in zip(copies, [weights, *tables], strict=True))


@pytest.mark.parametrize(("boundary", "closing"), [("ring", None), ("ring", 2), ("train", None)])
@pytest.mark.parametrize("blocks", [(0, 1), (0, 2, 3), (0, 1, 2, 3)])
def test_set_mixture_writes_independent_blocks(
    boundary: Boundary, closing: int | None, blocks: tuple[int, ...]
) -> None:
    sizes = [2, 3, 2, 3]
    chain = TensorChain(sizes, 4, boundary, closing_rank=closing).double()
    weights = torch.rand(len(blocks), 4).double()
    tables = [torch.rand(4, size).double() for size in sizes]
    chain.set_mixture(weights, tables, noise=0, blocks=blocks)
    states, expected = states_of(sizes), torch.ones(math.prod(sizes)).double()
    for w, start, end in zip(weights, blocks, (*blocks[1:], 4), strict=True):
        mixture = torch.zeros_like(expected)
        for a in range(4):
            product = w[a] / w.sum()
            for k in range(start, end):
                product = product * (tables[k][a] / tables[k][a].sum())[states[:, k]]
            mixture += product
        expected *= mixture
    # a narrow closing bond loses nothing: whatever it says, the first block draws anew
    found = log_weights(listed(chain), boundary, None).softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("blocks", [(), (1, 2), (0, 2, 1), (0, 0), (0, 3)])
def test_errors_of_blocks(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="blocks start at 0 and at growing positions below 3"):
        TensorChain([2, 3, 2], 2).set_mixture(
            torch.ones(2), [torch.ones(2, 2), torch.ones(2, 3), torch.ones(2, 2)], blocks=blocks
        )


@pytest.mark.parametrize(("boundary", "closing"), [("ring", None), ("ring", 2), ("train", None)])
def test_sizes_in_another_order_keep_the_cores(boundary: Boundary, closing: int | None) -> None:
    chain = TensorChain(SIZES, 3, boundary, closing_rank=closing).double()
    parameters = dict(chain.named_parameters())
    before = listed(chain)
    chain.arrange([3, 4, 2, 3, 2])
    assert dict(chain.named_parameters()) == parameters
    assert chain.sizes == chain.cores.sizes == (3, 4, 2, 3, 2)
    after = listed(chain)
    for old, new in ((0, 0), (1, 2), (2, 3), (3, 1), (4, 4)):
        assert torch.equal(after[new], before[old])
    expected = log_weights(after, boundary, None).logsumexp(-1)
    torch.testing.assert_close(chain.log_partition(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("sizes", "closing"), [([3, 2, 3, 4], None), ([3, 2, 3, 4, 3], None), ([2, 3, 3, 4, 2], 2), ([], None)]
)
def test_errors_of_arrange(sizes: list[int], closing: int | None) -> None:
    chain = TensorChain(SIZES, 3, closing_rank=closing)
    with pytest.raises(ValueError, match="in another order"):
        chain.arrange(sizes)
    assert chain.sizes == tuple(SIZES)


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_noise_lets_every_bond_change(boundary: Boundary) -> None:
    """Noise reaches every entry, in proportion, and moves the distribution a little only."""
    quiet, loud = TensorChain(SIZES, 3, boundary).double(), TensorChain(SIZES, 3, boundary).double()
    tables = [torch.rand(3, size).double() for size in SIZES]
    quiet.set_mixture(torch.ones(3).double(), tables, noise=0)
    loud.set_mixture(torch.ones(3).double(), tables, noise=0.02)
    for q, x in zip(listed(quiet), listed(loud), strict=True):
        off = ~torch.eye(3, dtype=torch.bool).expand_as(x)
        assert (x[off] > 1e-9).any()
        assert x[off].max() < 0.02 * q.max()
    p, q = (log_weights(listed(c), boundary, None).softmax(-1) for c in (quiet, loud))
    assert 1e-6 < (p - q).abs().sum() / 2 < 0.05


def test_the_mixture_start_depends_and_the_noise_is_remembered() -> None:
    chain = TensorChain(SIZES, 3, noise=0.0)
    chain.set_mixture(torch.ones(3), [torch.ones(3, size) for size in SIZES])
    off = ~torch.eye(3, dtype=torch.bool)
    assert all((g[:, off] < 1e-11).all() for g in listed(chain))
    # neighbours of a fresh mixture are dependent: their joint is not the product of its marginals
    fresh = TensorChain([2, 2], 4, noise=0.0).double()
    joint = log_weights(listed(fresh), "ring", None).softmax(-1).reshape(2, 2)
    assert (joint - joint.sum(1, keepdim=True) * joint.sum(0)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": []}, r"every variable needs at least one value, got sizes \[\]"),
        ({"sizes": [2, 0]}, r"every variable needs at least one value, got sizes \[2, 0\]"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"boundary": "loop"}, "boundary must be 'ring' or 'train', got 'loop'"),
        ({"start": "zeros"}, "start must be 'mixture' or 'random', got 'zeros'"),
        ({"noise": -0.1}, "noise must not be negative, got -0.1"),
        ({"noise": math.nan}, "noise must not be negative, got nan"),
    ],
)
def test_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TensorChain(**{"sizes": [2, 3], "rank": 2, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weights", "tables"),
    [
        ((3,), [(2, 3), (2, 2)]),
        ((2,), [(2, 3)]),
        ((2,), [(2, 2), (2, 3)]),
        ((2,), [(3, 3), (2, 2)]),
    ],
)
def test_errors_of_set_mixture(weights: tuple[int, ...], tables: list[tuple[int, ...]]) -> None:
    chain = TensorChain([3, 2], 2)
    before = copy.deepcopy(chain.state_dict())
    with pytest.raises(
        ValueError, match=r"expected weights \(2,\) or \(1, 2\) and a table \(2, N_k\) for each of the sizes \(3, 2\)"
    ):
        chain.set_mixture(torch.ones(weights), [torch.ones(t) for t in tables])
    assert all(torch.equal(before[name], value) for name, value in chain.state_dict().items())


def test_evidence_errors_reach_the_caller() -> None:
    with pytest.raises(ValueError, match="log_evidence must have shape"):
        TensorChain(SIZES, 2).log_partition(torch.zeros(5, 3))


def test_repr_says_what_it_is() -> None:
    assert repr(TensorChain(SIZES, 3, "train")) == "TensorChain(variables=5, rank=3, boundary='train')"


def test_cores_of_the_chain_are_taken_by_the_functions() -> None:
    chain = TensorChain(SIZES, 3, "train")
    torch.testing.assert_close(log_partition(chain.cores, boundary="train"), chain.log_partition())
