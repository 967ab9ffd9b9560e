"""What tn-vae registers: its model and its networks."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def models() -> Targets:
    """The variational autoencoder."""
    return {"VAE": "tn_vae.vae:VAE"}


@hookimpl
def networks() -> Targets:
    """Pairs of encoders and decoders."""
    return {name: f"tn_vae.networks:{name}" for name in ("MLP", "SmallConv", "DCGAN", "Conv8")}
