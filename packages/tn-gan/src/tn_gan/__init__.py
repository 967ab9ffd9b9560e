"""Generative adversarial networks with any prior."""
