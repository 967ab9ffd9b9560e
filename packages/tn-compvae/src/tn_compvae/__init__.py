"""Variational autoencoders of wholes made of sets of parts."""
