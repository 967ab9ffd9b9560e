"""Models with a category beside the continuous latents: the categories become clusters."""

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from tn_core import protocols
from tn_core.training import Items, batches
from tn_priors import StandardNormal
from tn_vae import MLP, CascadeVAE, JointVAE

SHAPE = (1, 2, 2)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (JointVAE, {"capacity": 1.0, "capacity_steps": 300, "pressure": 10.0}),
        (CascadeVAE, {"low_weight": 20.0, "high_weight": 20.0, "open_every": 1, "open_before": 1, "penalty": 0.01}),
    ],
)
def test_categories_become_clusters(model, options):
    torch.manual_seed(1)
    y = torch.randint(3, (768,))
    x = 0.1 * torch.rand(768, *SHAPE)
    x.flatten(1)[torch.arange(768), y] += 0.8
    torch.manual_seed(0)
    pair = MLP(SHAPE, features=1 + 3, outputs=model.network_size(1, 3)["outputs"], hidden=(32,))
    m = model(pair, StandardNormal(1), features=1, categories=3, learning_rate=3e-3, **options).train()
    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=50,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(m, batches(Items(x, y.unsqueeze(1)), 64, 0))
    m.eval()
    assigned = m.assign(x)
    table = torch.zeros(3, 3).index_put_((y, assigned), torch.ones(768), accumulate=True)
    assert table.max(1).values.sum() > 0.95 * 768
    assert sorted(table.argmax(1).tolist()) == [0, 1, 2]
    assert m.clusters == 3
    for k in range(3):
        assert (m.assign(m.sample(100, cluster=k)) == k).double().mean() > 0.9
    assert m.sample(5).shape == m.reconstruct(x[:5]).shape == (5, *SHAPE)
    assert isinstance(m, protocols.Assigns)
