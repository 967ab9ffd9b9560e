"""Where a trained model is measured."""

from collections.abc import Callable
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from tn_core.errors import UserError

__all__ = ["OnDevice", "find_device"]


def find_device(name: str) -> torch.device:
    """A device by name; "auto" is a GPU where there is one that CUDA knows, else the CPU.

    Raises:
        UserError: if there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu, cuda, or cuda:0, cuda:1 and so on, got {name!r}")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # a build of torch without CUDA asserts that it has it
        raise UserError(f"there is no device {name!r} here: {str(error).splitlines()[0]}") from None


class OnDevice:
    """A model on a device whose methods take and return tensors on the CPU.

    Arguments:
        model: is moved to the device.
        device: for instance a GPU.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model.to(device), device

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if not callable(value):
            return value
        method: Callable[..., Any] = value

        def call(*args: Any, **kwargs: Any) -> Any:
            there = apply_to_collection((args, kwargs), Tensor, lambda tensor: tensor.to(self._device))
            return apply_to_collection(method(*there[0], **there[1]), Tensor, lambda tensor: tensor.cpu())

        return call
