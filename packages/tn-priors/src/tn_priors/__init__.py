"""Tensor-network priors over latents and labels, as lazy torch distributions.

Names are imported when first used, so that ``import tn_priors`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tn_priors.chain_mixture import ChainMixture
    from tn_priors.flows import Flow
    from tn_priors.full import FullGaussianMixture
    from tn_priors.labels import Categorical, Continuous
    from tn_priors.simple import GaussianMixture, StandardNormal
    from tn_priors.trip import TRIP, TTLP
    from tn_priors.vamp import VampPrior

__all__ = [
    "TRIP",
    "TTLP",
    "Categorical",
    "ChainMixture",
    "Continuous",
    "Flow",
    "FullGaussianMixture",
    "GaussianMixture",
    "StandardNormal",
    "VampPrior",
]

_HOMES = {
    "TRIP": "tn_priors.trip",
    "TTLP": "tn_priors.trip",
    "Categorical": "tn_priors.labels",
    "ChainMixture": "tn_priors.chain_mixture",
    "Continuous": "tn_priors.labels",
    "Flow": "tn_priors.flows",
    "FullGaussianMixture": "tn_priors.full",
    "GaussianMixture": "tn_priors.simple",
    "StandardNormal": "tn_priors.simple",
    "VampPrior": "tn_priors.vamp",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tn-priors")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tn_priors' has no attribute {name!r}")
