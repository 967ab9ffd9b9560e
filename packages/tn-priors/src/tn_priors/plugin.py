"""What tn-priors registers: its own priors, and zuko's flows and mixture unchanged."""

from tn_core import hookimpl
from tn_core.hookspecs import Targets


@hookimpl
def priors() -> Targets:
    """Priors that are built from ``features`` alone, with more arguments if wanted."""
    return {
        "StandardNormal": "tn_priors.simple:StandardNormal",
        "GaussianMixture": "tn_priors.simple:GaussianMixture",
        "FullGaussianMixture": "tn_priors.full:FullGaussianMixture",
        "TRIP": "tn_priors.trip:TRIP",
        "TTLP": "tn_priors.trip:TTLP",
        "VampPrior": "tn_priors.vamp:VampPrior",
        "Flow": "tn_priors.flows:Flow",
        "NSF": "zuko.flows:NSF",
        "MAF": "zuko.flows:MAF",
        "NICE": "zuko.flows:NICE",
        "GMM": "zuko.mixtures:GMM",
    }
