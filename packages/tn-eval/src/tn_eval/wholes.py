"""Metrics of models of wholes made of sets of parts, against the simulator that their data come from.

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020, sections 4.1 and 5.1.
    Gretton et al., A Kernel Two-Sample Test, 2012 (maximum mean discrepancy).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tn_core.protocols import Bounds, Composes, Data, Samples, Simulates, SimulatesParts
from tn_eval.distances import gaussian_discrepancy
from tn_eval.metrics import Value

__all__ = ["bags", "new_set", "recomposition", "sizes"]

_UNIT = "root mean square"


@torch.no_grad()
def sizes(model: Bounds, data: Data, items: int = 500, most: int = 30) -> Mapping[str, Value]:
    """The evidence lower bound by the number of parts, a part, for sets of 1 to ``most`` parts.

    Raises:
        ValueError: if the data are no wholes made of parts.
    """
    known = _simulated(data, Simulates)
    found = {}
    for size in range(1, most + 1):
        y = known.sets(items, size, _generator(size))
        bound = model.elbo(known.wholes(y, _generator(size)), y)
        found[f"elbo_per_part_{size}"] = Value.of(bound / size, "nats per part", "higher")
    return found


@torch.no_grad()
def recomposition(model: Composes, data: Data, items: int = 2000) -> Mapping[str, Value]:
    """How far wholes are from the simulator's when a part of an observed whole is removed, added or exchanged.

    Each whole has from 2 parts to as many as the data; the part that goes or comes is the only one of its category. It
    comes from a whole that is observed too, where it is alone. Beside it the same distance of what one gets without a
    model: the observed whole minus, plus the parts observed alone (``_difference``), and the sum of all parts observed
    alone (``_sum``).

    Raises:
        ValueError: if the data are no wholes made of parts that the simulator knows, of two parts at least.
    """
    known = _simulated(data, SimulatesParts)
    if known.parts < 2:
        raise ValueError("it needs data with wholes of two parts or more")
    generator, each = _generator(0), -(-items // (known.parts - 1))
    errors: dict[str, list[Tensor]] = {}
    for size in range(2, known.parts + 1):
        y = _with_a_last_part_of_its_own(known, each, size, generator)
        hidden = known.hidden(y, generator)
        new = _places(known.sets(len(y), 1, generator), known)
        new_hidden = known.hidden(new.flatten(1), generator)._replace(whole=hidden.whole)
        rest, last = _places(y, known)[:, :-1], _places(y, known)[:, -1:]
        of_rest = hidden._replace(parts=hidden.parts[:, :-1])
        of_new = hidden._replace(parts=torch.cat([of_rest.parts, new_hidden.parts], 1))
        x, x_rest = known.simulate(y, hidden), known.simulate(rest.flatten(1), of_rest)
        x_new = known.simulate(torch.cat([rest, new], 1).flatten(1), of_new)
        alone, new_alone = known.alone(y, hidden), known.alone(new.flatten(1), new_hidden)[:, 0]
        sum_rest = alone[:, :-1].sum(1)

        whole = model.extract(x, y)
        without = model.remove(whole, [size - 1])
        lone, lone_new = model.extract(alone[:, -1], last.flatten(1)), model.extract(new_alone, new.flatten(1))
        for name, truth, ours, difference, total in (
            ("removed", x_rest, without, x - alone[:, -1], sum_rest),
            ("added", x, model.add(model.extract(x_rest, rest.flatten(1)), lone), x_rest + alone[:, -1], alone.sum(1)),
            ("exchanged", x_new, model.add(without, lone_new), x - alone[:, -1] + new_alone, sum_rest + new_alone),
        ):
            for suffix, guess in (("", model.decode(ours)), ("_difference", difference), ("_sum", total)):
                error = (guess - truth).flatten(1).square().mean(1).sqrt()
                errors.setdefault(f"{name}{suffix}", []).append(error)
    return {name: Value.of(torch.cat(values), _UNIT, "lower") for name, values in errors.items()}


@torch.no_grad()
def bags(model: Samples, data: Data, count: int = 20, samples: int = 1000) -> Mapping[str, Value]:
    """How the wholes of sets of parts that the training data do not have are distributed.

    The squared maximum mean discrepancy to the simulator's wholes, and their spread, the standard deviation of a value
    as a share of the simulator's, both averaged over so many sets of 2 parts to as many as the data have: of the
    model, of the sum of parts drawn independently (``_sum``), and of the simulator itself (``_simulator``), which is 0
    and 1 but for chance. Of data that hold out no sets the sets are any. Sets whose wholes are all the same, such as
    sites of one colour, are passed over.

    Raises:
        ValueError: if the data are no wholes made of parts, or do not vary.
    """
    known = _simulated(data, Simulates)
    found: dict[str, list[float]] = {}
    for k in range(count):
        size, generator = 2 + k % (known.parts - 1), _generator(k)
        for _ in range(100):
            y = new_set(known, size, generator)
            sets = y.expand(samples, -1)
            truth = known.wholes(sets, generator).flatten(1)
            if truth.std(0).any():
                break
        else:
            raise ValueError("it needs data whose wholes of one set of parts vary")
        for suffix, x in (
            ("", model.sample(samples, y)),
            ("_sum", known.sums(sets, generator)),
            ("_simulator", known.wholes(sets, generator)),
        ):
            x = x.flatten(1)
            found.setdefault(f"bags_mmd{suffix}", []).append(gaussian_discrepancy(x, truth))
            found.setdefault(f"bags_spread{suffix}", []).append(float(x.std(0).mean() / truth.std(0).mean()))
    return {
        name: Value.of(torch.tensor(values), *(("squared", "lower") if "mmd" in name else ("of the simulator's", "1")))
        for name, values in found.items()
    }


def new_set(source: Simulates, size: int, generator: torch.Generator) -> Tensor:
    """Draws a set of so many parts, (labels,): one that the training data do not have, if they hold out any."""
    try:
        return source.unseen(1, size, generator)[0]
    except ValueError:
        return source.sets(1, size, generator)[0]


def _simulated(data: Data, protocol: Any) -> Any:
    if not isinstance(data, protocol):
        name = type(data).__name__
        raise ValueError(f"it needs wholes made of parts from a simulator, as the data set sines has, not {name}")
    return data


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _places(y: Tensor, data: Simulates) -> Tensor:
    """Sets of parts place by place, (batch, places, labels of a part)."""
    width = len(data.labels) // data.parts
    return y.unflatten(1, (-1, width))


def _with_a_last_part_of_its_own(known: SimulatesParts, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Sets whose last part has a category that no other has."""
    found: list[Tensor] = []
    for _ in range(100):
        y = known.sets(4 * count, size, generator)
        category = _places(y, known)[..., 0]
        found.append(y[(category[:, :-1] != category[:, -1:]).all(1)])
        if sum(map(len, found)) >= count:
            return torch.cat(found)[:count]
    raise ValueError(f"there are too few categories for a part of its own among {size} parts")
