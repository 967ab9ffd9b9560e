"""What this plugin registers. Targets are strings: nothing is imported until somebody asks for the name."""

from tn_core import hookimpl

__all__ = ["networks", "priors"]


@hookimpl
def priors() -> dict[str, str]:
    """A prior over latents and labels."""
    return {"ClassGaussian": "tn_plugin_template.prior:ClassGaussian"}


@hookimpl
def networks() -> dict[str, str]:
    """A pair of an encoder and a decoder."""
    return {"ResidualMLP": "tn_plugin_template.network:ResidualMLP"}
