"""What tn-gan registers: its models, its networks and a prior to compare with."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def models() -> Targets:
    """The generative adversarial networks."""
    return {"ConditionalGAN": "tn_gan.conditional:ConditionalGAN", "GAN": "tn_gan.gan:GAN"}


@hookimpl
def networks() -> Targets:
    """Pairs of a discriminator and a generator."""
    return {name: f"tn_gan.networks:{name}" for name in ("GANConv", "GANMLP", "GANResNet", "TRIPGAN")}


@hookimpl
def priors() -> Targets:
    """Labels without a learned prior."""
    return {"LabelEmbedding": "tn_gan.embedding:LabelEmbedding"}
