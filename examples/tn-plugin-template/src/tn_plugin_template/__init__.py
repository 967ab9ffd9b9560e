"""A plugin for ``tn``: a class-conditional Gaussian prior and a residual network."""
