"""What this package registers with the plugin host; nothing is imported until it is used."""

from tn_core.hookspecs import hookimpl

__all__ = ["datasets"]


@hookimpl
def datasets() -> dict[str, str]:
    """The data sets by name."""
    return {
        "celeba": "tn_eval.files:CelebA",
        "cifar10": "tn_eval.datasets:CIFAR10",
        "cifar10-part": "tn_eval.files:CIFAR10Part",
        "digits": "tn_eval.datasets:Digits",
        "fashion-mnist": "tn_eval.datasets:FashionMNIST",
        "mnist": "tn_eval.datasets:MNIST",
        "omniglot": "tn_eval.files:Omniglot",
        "omniglot28": "tn_eval.files:Omniglot28",
        "sprites": "tn_eval.files:Sprites",
        "svhn": "tn_eval.datasets:SVHN",
    }
