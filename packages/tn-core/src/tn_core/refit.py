"""``tn refit``: fits another prior to the latents of a trained model (ex-post density estimation)."""

from pathlib import Path
from typing import Annotated

from tn_core.components import Component, Spec, build, components_of
from tn_core.errors import MOST_SEED, UserError, check_range
from tn_core.fit import check_new_folder
from tn_core.plugins import default_host
from tn_core.protocols import to_float
from tn_core.storage import build_model, load_model, read_config, save_model

__all__ = ["refit"]

_BATCH = 500


def refit(
    run: str,
    *,
    prior: Annotated[Spec, Component("priors", "TRIP")],
    out: str,
    seed: int = 0,
    data_root: str = "data",
) -> None:
    """Fits another prior to the latents of a trained model, whose networks stay as they are.

    The folder ``out`` then holds the model with that prior. Of a variational model the latents are samples of the
    posterior, of a deterministic one its codes, of at most 60,000 training items.

    Arguments:
        run: the folder of the trained model.
        prior: the prior, which needs a method ``fit``.
        out: the folder to write, new or empty.
        seed: of everything random.
        data_root: where data sets keep their files.

    Raises:
        UserError: if the model or the prior cannot do it, or a folder cannot be read or written.
    """
    check_range(0, MOST_SEED, seed=seed)
    folder, host = Path(out), default_host()
    check_new_folder(folder)
    config = read_config(Path(run))
    import torch

    old, _ = load_model(Path(run), host)
    name = config["model"]["name"]
    if not getattr(old, "exchangeable_prior", False) or "prior" not in components_of(host.get("models", name)):
        raise UserError(f"{name} has no prior that can be exchanged")
    torch.manual_seed(seed)
    config = {**config, "model": {**config["model"], "prior": prior}}
    model = build_model(config, host).eval()
    if not hasattr(model.prior, "fit"):
        raise UserError(f"{prior['name']} cannot be fitted: it has no method fit")
    # all but the prior, and what a model keeps of the prior's labels
    state = model.state_dict()
    kept = {k: v for k, v in old.state_dict().items() if not k.startswith("prior.") and v.shape == state[k].shape}
    model.load_state_dict(state | kept)
    train = build(config["data"], "datasets", host, root=data_root).split("train")
    pieces = zip(train.x.split(_BATCH), train.observed.split(_BATCH), strict=True)
    z, y = model.latents_of((to_float(x), y) for x, y in pieces)
    try:
        model.prior.fit(z, y if getattr(model.prior, "labels", ()) else None)
    except ValueError as error:
        raise UserError(f"{prior['name']} cannot be fitted: {error}") from error
    save_model(model, config, folder)
    print(f"model: {folder}")
