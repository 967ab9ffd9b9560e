"""Data sets with missing labels, metrics and pictures for generative models."""
