"""Generative adversarial networks with any prior."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tn_gan.conditional import ConditionalGAN
    from tn_gan.embedding import LabelEmbedding
    from tn_gan.gan import GAN
    from tn_gan.networks import GANMLP, TRIPGAN, GANConv, GANResNet

__all__ = ["GAN", "GANMLP", "TRIPGAN", "ConditionalGAN", "GANConv", "GANResNet", "LabelEmbedding"]

_HOMES = {"GAN": "gan", "ConditionalGAN": "conditional", "LabelEmbedding": "embedding"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tn-gan")
    if name in __all__:
        return getattr(import_module(f"tn_gan.{_HOMES.get(name, 'networks')}"), name)
    raise AttributeError(f"module 'tn_gan' has no attribute {name!r}")
