"""What this package registers with the plugin host; nothing is imported until it is used."""

from tn_core.hookspecs import hookimpl

__all__ = ["commands", "datasets", "metrics"]


@hookimpl
def datasets() -> dict[str, str]:
    """The data sets by name."""
    return {
        "brightness": "tn_eval.brightness:Brightness",
        "celeba": "tn_eval.files:CelebA",
        "cifar10": "tn_eval.datasets:CIFAR10",
        "cifar10-part": "tn_eval.files:CIFAR10Part",
        "counts": "tn_eval.counts:Counts",
        "digits": "tn_eval.datasets:Digits",
        "fashion-mnist": "tn_eval.datasets:FashionMNIST",
        "gaussian-grid": "tn_eval.synthetic:GaussianGrid",
        "mnist": "tn_eval.datasets:MNIST",
        "omniglot": "tn_eval.files:Omniglot",
        "omniglot28": "tn_eval.files:Omniglot28",
        "sprites": "tn_eval.files:Sprites",
        "stacked": "tn_eval.stacked:Stacked",
        "svhn": "tn_eval.datasets:SVHN",
        "two-gaussians": "tn_eval.synthetic:TwoGaussians",
    }


@hookimpl
def metrics() -> dict[str, str]:
    """What ``tn evaluate`` measures."""
    return {
        "active_units": "tn_eval.metrics:active_units",
        "calibration": "tn_eval.metrics:calibration",
        "clustering": "tn_eval.metrics:clustering",
        "condition_accuracy": "tn_eval.metrics:condition_accuracy",
        "conditional_fid": "tn_eval.metrics:conditional_fid",
        "decomposition": "tn_eval.metrics:decomposition",
        "elbo": "tn_eval.metrics:bound_elbo",
        "fid": "tn_eval.metrics:fid",
        "imputation": "tn_eval.metrics:imputation",
        "interpolation": "tn_eval.interpolation:interpolation",
        "iwae": "tn_eval.metrics:bound_iwae",
        "modes": "tn_eval.modes:modes",
        "reconstruction": "tn_eval.metrics:reconstruction",
        "reconstruction_fid": "tn_eval.metrics:reconstruction_fid",
        **{name: f"tn_eval.wholes:{name}" for name in ("bags", "recomposition", "sizes")},
    }


@hookimpl
def commands() -> dict[str, str]:
    """What one does with a trained model."""
    return {
        **{name: f"tn_eval.commands:{name}" for name in ("evaluate", "impute", "sample")},
        **{name: f"tn_eval.views:{name}" for name in ("density", "histogram", "hop", "interpolate")},
        "neighbours": "tn_eval.neighbours:neighbours",
        **{name: f"tn_eval.whole_views:{name}" for name in ("bands", "curves", "recompose", "wholes")},
    }
