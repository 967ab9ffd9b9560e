"""What tn-compvae registers: its model and its data set."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def models() -> Targets:
    """The compositional variational autoencoder."""
    return {"CompVAE": "tn_compvae.compvae:CompVAE"}


@hookimpl
def datasets() -> Targets:
    """Sums of sine waves."""
    return {"sines": "tn_compvae.sines:Sines"}
