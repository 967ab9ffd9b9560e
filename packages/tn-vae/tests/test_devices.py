"""Every model trains and is used on every device there is: a tensor left behind on the CPU would be an error."""

import pytest
import torch
from test_vae import trainer

from tn_core.plugins import default_host
from tn_core.storage import build_model
from tn_core.training import DataOnDevice, Items, batches
from tn_priors.testing import DEVICES

SHAPE, LABELS = (1, 8, 8), {"colour": ["red", "green"], "size": ["s", "m", "l"]}
MODELS = {
    "ring": {"name": "VAE", "prior": {"name": "TRIP", "rank": 3}, "reinitialize": "fit", "final_steps": 2},
    "train": {"name": "VAE", "prior": {"name": "TTLP", "rank": 3}},
    "flow": {"name": "VAE", "prior": {"name": "Flow", "base": {"name": "TRIP", "rank": 3}}},
    "pseudo-inputs": {"name": "VAE", "prior": {"name": "VampPrior", "components": 4}},
    "conditional": {"name": "CVAE"},
    "product of experts": {"name": "TELBO"},
    "joint": {"name": "JMVAE"},
    "categories": {"name": "CPVAE", "prior": {"name": "GaussianMixture", "components": 3}, "start_epochs": 1},
    "two layers": {"name": "HVAE", "prior": {"name": "VampPrior", "components": 4}},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_on_every_device(name, device):
    torch.manual_seed(0)
    config = {"model": MODELS[name], "shape": SHAPE, "features": 4, "labels": LABELS}
    model = build_model(config, default_host())
    x = torch.randint(256, (64, *SHAPE), dtype=torch.uint8)
    y = torch.stack([torch.randint(-1, len(values), (64,)) for values in LABELS.values()], 1)
    items = Items(x, y)
    accelerator = "gpu" if device == "cuda" else "cpu"
    trainer(2, DataOnDevice(items), accelerator=accelerator).fit(model, batches(items, 16, seed=0))
    model.eval().to(device)
    x, y = x.to(device).float() / 255, y.to(device)
    found = [model.elbo(x), model.iwae(x, None, 3), model.encode(x), model.reconstruct(x), model.sample(3)]
    if getattr(model, "has_labels", False):
        found += [model.elbo(x, y), model.sample(len(y), y), *model.impute(x, y)]
    for tensor in found:
        assert tensor.device.type == device
        assert tensor.isfinite().all()
