"""What tn-gan registers: its model and its networks."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def models() -> Targets:
    """The generative adversarial network."""
    return {"GAN": "tn_gan.gan:GAN"}


@hookimpl
def networks() -> Targets:
    """Pairs of a discriminator and a generator."""
    return {name: f"tn_gan.networks:{name}" for name in ("GANConv", "GANMLP", "GANResNet", "TRIPGAN")}
