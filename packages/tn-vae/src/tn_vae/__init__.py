"""Variational autoencoders with any prior."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tn_vae.networks import DCGAN, MLP, Conv8, SmallConv
    from tn_vae.vae import VAE

__all__ = ["DCGAN", "MLP", "VAE", "Conv8", "SmallConv"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tn-vae")
    if name in __all__:
        return getattr(import_module("tn_vae.vae" if name == "VAE" else "tn_vae.networks"), name)
    raise AttributeError(f"module 'tn_vae' has no attribute {name!r}")
