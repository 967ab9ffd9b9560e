"""The Inception network of the published FID: where its weights are found, and how they are read.

The weights are TensorFlow's of 2015-12-05, converted for torch. They are one published file, a pickle: nothing but that
file, told by its checksum, is ever opened. torch-fidelity, which has the network, comes with the extra ``inception``.

References:
    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, https://arxiv.org/abs/1706.08500
    Obukhov et al., torch-fidelity, https://github.com/toshas/torch-fidelity
"""

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tn_core.errors import UserError
from tn_eval.cache import cache_folder

if TYPE_CHECKING:  # the command line checks its options without importing torch
    from torch import nn

__all__ = ["INCEPTION_FEATURES", "find_inception", "load_inception"]

INCEPTION_FEATURES = 2048

NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def find_inception(weights: str | None = None, download: bool = False) -> Path:
    """Returns the path of the weights, after a look at their checksum.

    Arguments:
        weights: the file; None: the one in the cache.
        download: fetch it to the cache if none is named and the cache has none.

    Raises:
        UserError: if torch-fidelity or the file is missing, the file is another one, or it cannot be fetched.
    """
    if find_spec("torch_fidelity") is None:
        raise UserError("inception features need torch-fidelity: pip install 'tn-eval[inception]'")
    path = cache_folder("inception") / NAME if weights is None else Path(weights).expanduser()
    if weights is not None and not path.is_file():
        raise UserError(f"there is no file {path}; it should be {NAME} from {URL}")
    if not path.is_file() and not download:
        raise UserError(
            f"inception features need the file {NAME}: name it with --inception-weights FILE, or fetch it "
            f"(96 MB, to {path.parent}) with --download true"
        )
    if not path.is_file():
        _fetch(path)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if found != SHA256:
        raise UserError(
            f"{path} is not the published {NAME}, or it is broken: its SHA-256 is {found}, not {SHA256}. "
            f"Get it from {URL}"
        )
    return path


def load_inception(weights: str | None = None, download: bool = False) -> "nn.Module":
    """Builds the network, in evaluation mode: bytes (batch, 3, height, width) to a tuple with (batch, 2048).

    Images are resized to 299 x 299 as TensorFlow 1 did, which published figures rest on. Arguments and errors are those
    of :func:`find_inception`.
    """
    path = find_inception(weights, download)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network: nn.Module = FeatureExtractorInceptionV3(
        "inception-v3-compat", [str(INCEPTION_FEATURES)], feature_extractor_weights_path=str(path)
    )
    return network.eval()


def _fetch(path: Path) -> None:
    """Downloads the weights; the file is compared with its checksum before it takes its place."""
    from torch.hub import download_url_to_file

    print(f"downloading {URL}", file=sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(URL, str(path), hash_prefix=SHA256, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no space; another file than the published one
        raise UserError(f"could not download {URL} to {path}: {error}") from None
