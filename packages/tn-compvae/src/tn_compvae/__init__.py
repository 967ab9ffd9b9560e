"""Variational autoencoders of wholes made of sets of parts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tn_compvae.compvae import Composition, CompVAE, Noise
    from tn_compvae.load_curves import LoadCurves
    from tn_compvae.networks import PartsConv, PartsLarge, PartsMLP
    from tn_compvae.posterior import PartsPosterior
    from tn_compvae.sets import Parts, Schema
    from tn_compvae.sines import Sines
    from tn_compvae.sites import Sites

__all__ = [
    "CompVAE",
    "Composition",
    "LoadCurves",
    "Noise",
    "Parts",
    "PartsConv",
    "PartsLarge",
    "PartsMLP",
    "PartsPosterior",
    "Schema",
    "Sines",
    "Sites",
]

_HOMES = {
    "CompVAE": "compvae",
    "Composition": "compvae",
    "LoadCurves": "load_curves",
    "Noise": "compvae",
    "Parts": "sets",
    "PartsConv": "networks",
    "PartsLarge": "networks",
    "PartsMLP": "networks",
    "PartsPosterior": "posterior",
    "Schema": "sets",
    "Sines": "sines",
    "Sites": "sites",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tn-compvae")
    if name in _HOMES:
        return getattr(import_module(f"tn_compvae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tn_compvae' has no attribute {name!r}")
