"""A model on a device is used as if it were on the CPU."""

import pytest
import torch
from torch import nn

from tn_core.errors import UserError
from tn_eval.devices import OnDevice, find_device

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Echo(nn.Module):
    """Notes where its arguments are."""

    clusters = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[str] = []

    def note(self, x, y=None, count=2):
        """A list and a mapping of what was given, on the model's device."""
        self.seen = [t.device.type for t in (self.weight, x, *(y or ())) if t is not None]
        return [x * self.weight], {"count": count}

    def shape(self, x):
        """No tensor."""
        return tuple(x.shape)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_come_back(device):
    model = Echo()
    seen = OnDevice(model, find_device(device))
    (found,), rest = seen.note(torch.arange(3.0), y=[None, torch.ones(2)], count=5)
    assert model.seen == [device] * 3
    torch.testing.assert_close(found, torch.arange(3.0))
    assert rest == {"count": 5}
    assert seen.clusters == 3


def test_arguments_go_there_and_results_come_back():
    """To a device without memory: what came back from it could not be read."""
    model = Echo()
    seen = OnDevice(model, torch.device("meta"))
    assert seen.shape(torch.zeros(2, 3)) == (2, 3)
    with pytest.raises(NotImplementedError, match="meta"):
        seen.note(torch.zeros(2), y=[None, torch.zeros(1)])
    assert model.seen == ["meta"] * 3


def test_what_a_model_does_not_offer():
    assert not hasattr(OnDevice(Echo(), torch.device("cpu")), "impute")


def test_find_device():
    assert find_device("auto").type == DEVICES[-1]
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="no device 'cuda:97' here: "):
        find_device("cuda:97")
    for name in ("meta", "tpu:0", "cpu:x", ""):
        with pytest.raises(UserError, match="device"):
            find_device(name)
