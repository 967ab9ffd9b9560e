"""What the tests share: a seed for each, one thread, and a trained model."""

import lightning.pytorch as lightning
import pytest
import torch

from tn_compvae import CompVAE, PartsMLP, Sines
from tn_core.training import Drawn, SeedEpochs, batches


@pytest.fixture(autouse=True)
def reproducible() -> None:
    """The same numbers in whichever order the tests run."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def trained() -> CompVAE:
    """A model after a short training on sums of up to 3 sines of 4 frequencies, 50 values long."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = Sines(parts=3, frequencies=4, length=50)
    m = CompVAE(PartsMLP(data.shape, 16, [4] * 3, global_features=2, hidden=64), learning_rate=3e-3)
    lightning.Trainer(
        max_epochs=30,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SeedEpochs(0)],
    ).fit(m, batches(Drawn(data, 2048), 64, seed=0))
    return m.eval()
