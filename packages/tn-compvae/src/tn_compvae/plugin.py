"""What tn-compvae registers: its model and what that is made of, and its problems."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def models() -> Targets:
    """The compositional variational autoencoder."""
    return {"CompVAE": "tn_compvae.compvae:CompVAE"}


@hookimpl
def networks() -> Targets:
    """What it learns."""
    names = ("PartsConv", "PartsLarge", "PartsMLP")
    return {name: f"tn_compvae.networks:{name}" for name in names}


@hookimpl
def aggregations() -> Targets:
    """What it makes of the parts."""
    return {name: f"tn_compvae.aggregations:{name}" for name in ("LogSumExp", "Mean", "Sum")}


@hookimpl
def datasets() -> Targets:
    """Sums of sine waves, coloured sites, households' load curves."""
    return {
        "load-curves": "tn_compvae.load_curves:LoadCurves",
        "sines": "tn_compvae.sines:Sines",
        "sites": "tn_compvae.sites:Sites",
    }
