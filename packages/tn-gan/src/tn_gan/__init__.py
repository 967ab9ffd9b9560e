"""Generative adversarial networks with any prior."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tn_gan.gan import GAN
    from tn_gan.networks import GANMLP, TRIPGAN, GANConv, GANResNet

__all__ = ["GAN", "GANMLP", "TRIPGAN", "GANConv", "GANResNet"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tn-gan")
    if name in __all__:
        return getattr(import_module("tn_gan.gan" if name == "GAN" else "tn_gan.networks"), name)
    raise AttributeError(f"module 'tn_gan' has no attribute {name!r}")
