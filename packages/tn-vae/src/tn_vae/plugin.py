"""What tn-vae registers: its models and its networks."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def models() -> Targets:
    """The variational autoencoders."""
    return {name: f"tn_vae.{name.lower()}:{name}" for name in ("VAE", "CVAE", "TELBO", "JMVAE", "CPVAE", "HVAE")}


@hookimpl
def networks() -> Targets:
    """Pairs of encoders and decoders."""
    return {name: f"tn_vae.networks:{name}" for name in ("MLP", "GatedMLP", "SmallConv", "DCGAN", "Conv8")}
