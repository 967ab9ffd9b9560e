"""What tn-gan registers: its model and its network."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def models() -> Targets:
    """The generative adversarial network."""
    return {"GAN": "tn_gan.gan:GAN"}


@hookimpl
def networks() -> Targets:
    """A generator and a discriminator."""
    return {"GANConv": "tn_gan.networks:GANConv"}
