"""What tn-vae registers: its models, its networks, and a prior that is a model itself."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def models() -> Targets:
    """The autoencoders, variational and deterministic."""
    names = (
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
    )
    return {name: f"tn_vae.{name.lower()}:{name}" for name in names}


@hookimpl
def networks() -> Targets:
    """Pairs of encoders and decoders."""
    return {name: f"tn_vae.networks:{name}" for name in ("MLP", "GatedMLP", "SmallConv", "DCGAN", "Conv8")}


@hookimpl
def priors() -> Targets:
    """A variational autoencoder over latents."""
    return {"LatentVAE": "tn_vae.latentvae:LatentVAE"}
