"""Tensor-network priors over latents and labels, as lazy torch distributions."""
