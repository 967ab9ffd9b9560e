"""What tn-priors registers: its priors, and zuko's as they are."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def priors() -> Targets:
    """Priors over latents."""
    return {"TRIP": "tn_priors.trip:TRIP", "TTLP": "tn_priors.trip:TTLP"}
