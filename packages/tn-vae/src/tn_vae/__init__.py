"""Variational autoencoders with any prior."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tn_vae.cascadevae import CascadeVAE
    from tn_vae.cpvae import CPVAE
    from tn_vae.cvae import CVAE
    from tn_vae.cvvae import CVVAE
    from tn_vae.hvae import HVAE
    from tn_vae.jmvae import JMVAE
    from tn_vae.jointvae import JointVAE
    from tn_vae.latentvae import LatentVAE
    from tn_vae.networks import DCGAN, MLP, Conv8, GatedMLP, SmallConv
    from tn_vae.rae import RAE
    from tn_vae.shapedae import ShapedAE
    from tn_vae.telbo import TELBO
    from tn_vae.vae import VAE
    from tn_vae.wae import WAE

__all__ = [
    "CPVAE",
    "CVAE",
    "CVVAE",
    "DCGAN",
    "HVAE",
    "JMVAE",
    "MLP",
    "RAE",
    "TELBO",
    "VAE",
    "WAE",
    "CascadeVAE",
    "Conv8",
    "GatedMLP",
    "JointVAE",
    "LatentVAE",
    "ShapedAE",
    "SmallConv",
]

_FILES = (
    "VAE",
    "CVAE",
    "TELBO",
    "JMVAE",
    "CPVAE",
    "HVAE",
    "CVVAE",
    "ShapedAE",
    "RAE",
    "WAE",
    "JointVAE",
    "CascadeVAE",
    "LatentVAE",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tn-vae")
    if name in __all__:
        return getattr(import_module(f"tn_vae.{name.lower()}" if name in _FILES else "tn_vae.networks"), name)
    raise AttributeError(f"module 'tn_vae' has no attribute {name!r}")
