"""Chains of non-negative matrices, the plugin host and the ``tn`` command.

Names are imported when first used, so that ``import tn_core`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tn_core.errors import UserError
from tn_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from tn_core.chain import log_partition, marginals
    from tn_core.modes import mode
    from tn_core.plans import get_memory_limit, set_memory_limit
    from tn_core.sampling import sample
    from tn_core.tensor_chain import TensorChain

__all__ = [
    "TensorChain",
    "UserError",
    "get_memory_limit",
    "hookimpl",
    "log_partition",
    "marginals",
    "mode",
    "sample",
    "set_memory_limit",
]

_HOMES = {
    "get_memory_limit": "tn_core.plans",
    "log_partition": "tn_core.chain",
    "marginals": "tn_core.chain",
    "mode": "tn_core.modes",
    "sample": "tn_core.sampling",
    "set_memory_limit": "tn_core.plans",
    "TensorChain": "tn_core.tensor_chain",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tn-core")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tn_core' has no attribute {name!r}")
