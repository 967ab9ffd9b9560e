"""Variational autoencoders of wholes made of sets of parts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tn_compvae.compvae import CompVAE, Noise
    from tn_compvae.posterior import PartsPosterior
    from tn_compvae.sines import Sines

__all__ = ["CompVAE", "Noise", "PartsPosterior", "Sines"]

_HOMES = {"CompVAE": "compvae", "Noise": "compvae", "PartsPosterior": "posterior", "Sines": "sines"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tn-compvae")
    if name in _HOMES:
        return getattr(import_module(f"tn_compvae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tn_compvae' has no attribute {name!r}")
