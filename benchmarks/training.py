"""The prior's share of a training step, and what the training loop costs beside a bare one."""

import logging
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any, get_args

import lightning.pytorch as lightning
import torch
from zuko.lazy import LazyDistribution

from benchmarks.measure import interleaved
from tn_core.training import DataOnDevice, Items, batches
from tn_gan import GAN, TRIPGAN
from tn_gan.gan import Estimator
from tn_priors import TRIP, StandardNormal
from tn_vae import VAE
from tn_vae.networks import DCGAN

SHAPE, LATENTS, LABELS, BATCH = (3, 64, 64), 100, 14, 128  # TRIP, appendix C; as many labels as its CelebA


def model(prior: LazyDistribution) -> VAE:
    """The VAE of TRIP, appendix C."""
    return VAE(DCGAN(SHAPE, LATENTS), prior, likelihood="gaussian")


def stepper(module: VAE, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """One step of a bare loop."""
    optimizer = module.configure_optimizers()

    def step() -> None:
        optimizer.zero_grad()
        module.training_step((x, y), 0).backward()
        optimizer.step()

    return step


def share_of_the_prior(device: torch.device, rank: int = 20, seconds: float = 60.0) -> list[dict[str, Any]]:
    """A training step with a standard normal prior and with tensor rings: milliseconds, images a second, share."""
    warnings.filterwarnings("ignore", ".*trainer.*")
    torch.manual_seed(0)
    x = torch.rand(BATCH, *SHAPE, device=device)
    y = torch.randint(-1, 2, (BATCH, LABELS), device=device)
    priors = {
        "standard normal": StandardNormal(LATENTS),
        f"ring, rank {rank}": TRIP(LATENTS, 10, rank),
        f"ring, rank {rank}, {LABELS} labels": TRIP(LATENTS, 10, rank, labels=[2] * LABELS),
    }
    cases = {name: stepper(model(prior).to(device), x, y) for name, prior in priors.items()}
    return _shares(interleaved(cases, device, seconds))


def _shares(times: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "prior": name,
            "ms a step": time,
            "images a second": BATCH / time * 1e3,
            "share of the prior": 1 - times["standard normal"] / time,
        }
        for name, time in times.items()
    ]


def share_in_a_gan(device: torch.device, rank: int = 20, seconds: float = 60.0) -> list[dict[str, Any]]:
    """A step of either player of a WGAN-GP, with a standard normal prior and with a ring learned by each estimator."""
    torch.manual_seed(0)
    x = torch.rand(BATCH, *SHAPE, device=device)

    def both_players(prior: LazyDistribution, estimator: Estimator = "pathwise") -> Callable[[], object]:
        module = GAN(TRIPGAN(SHAPE, LATENTS), prior, "wgan-gp", estimator).to(device)
        generator, critic = module.configure_optimizers()

        def step() -> None:
            critic.zero_grad()
            module.discriminator_loss(x).backward()
            critic.step()
            generator.zero_grad()
            module.generator_loss(BATCH).backward()
            generator.step()

        return step

    cases = {"standard normal": both_players(StandardNormal(LATENTS))}
    for estimator in get_args(Estimator):
        cases[f"ring, rank {rank}, {estimator}"] = both_players(TRIP(LATENTS, 10, rank), estimator)
    return _shares(interleaved(cases, device, seconds))


def loop_overhead(device: torch.device, steps: int = 12, rounds: int = 3) -> dict[str, Any]:
    """Milliseconds a step of the training loop of ``tn fit`` and of a bare loop over the same batches."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    images = (torch.rand(steps * BATCH, *SHAPE) * 255).to(torch.uint8)
    labels = torch.randint(-1, 2, (len(images), LABELS))

    def trained() -> float:
        module = model(TRIP(LATENTS, 10, 20, labels=[2] * LABELS))
        items = Items(images, labels)
        clock = _Clock()
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            callbacks=[DataOnDevice(items), clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, batches(items, BATCH, 0))
        return clock.milliseconds

    def bare() -> float:
        module = model(TRIP(LATENTS, 10, 20, labels=[2] * LABELS)).to(device)
        x, y = images.to(device), labels.to(device)
        optimizer = module.configure_optimizers()
        times = []
        for index in torch.randperm(len(x)).to(device).split(BATCH):
            begin = time.perf_counter()
            loss = module.training_step((x[index].float() / 255, y[index]), 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - begin))
        return sum(times[2:]) / len(times[2:])

    pairs = [(trained(), bare()) for _ in range(rounds)]
    ours, theirs = (median(column) for column in zip(*pairs, strict=True))
    return {"ms a step": ours, "ms a step of a bare loop": theirs, "ratio": median(a / b for a, b in pairs)}


class _Clock(lightning.Callback):
    """The mean time from the end of one step to that of the next, without the first two."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A step has ended."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def milliseconds(self) -> float:
        """Of a step."""
        return 1e3 * (self.ends[-1] - self.ends[1]) / (len(self.ends) - 2)
