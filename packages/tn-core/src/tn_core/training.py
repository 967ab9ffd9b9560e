"""The training glue: batches, per-epoch seeds, checkpoints and history, for Lightning.

Every epoch draws from a seed of its own, made from the run's seed and the epoch's number. A run that goes on from an
end-of-epoch checkpoint therefore sees the same batches in the same order and the same noise as one that was never
stopped; on the CPU it ends with the same weights, bit for bit.
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tn_core.protocols import Draws, to_float
from tn_core.storage import WRITING, write_text

__all__ = [
    "VALIDATION",
    "BestWeights",
    "DataOnDevice",
    "Decay",
    "Drawn",
    "EpochBatches",
    "History",
    "Items",
    "LastCheckpoint",
    "SeedEpochs",
    "batches",
    "hold_out",
]

VALIDATION = "validation_elbo"
"""What a model logs in its validation step; the higher the better."""


class Items(Dataset[tuple[Tensor, Tensor]]):
    """Data and labels, indexed by many items at once: ``items[torch.tensor([3, 1, 4])]`` is a batch.

    Arguments:
        x: data (items, *shape), uint8 or float.
        y: labels, long (items, labels).
        dynamic: whether data are probabilities: a batch is then of zeros and ones drawn from them.
    """

    def __init__(self, x: Tensor, y: Tensor, dynamic: bool = False) -> None:
        self.x, self.y, self.dynamic = x, y, dynamic
        self._generator: torch.Generator | None = None

    def start_epoch(self, epoch: int, seed: int) -> Tensor:
        """The order of the coming epoch, where the data lie.

        Fixes what is drawn in it, too: a loader may fetch before torch's own generator is seeded for it.
        """
        if self.dynamic:
            self._generator = torch.Generator(self.x.device).manual_seed(seed)
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).to(self.x.device)

    def move(self, device: torch.device) -> None:
        """Moves the data, if they take no more than half of what is free on a GPU."""
        if device.type == "cuda" and self.x.nbytes + self.y.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return
        self.x, self.y = self.x.to(device), self.y.to(device)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self.x.device)
        x = to_float(self.x[index])
        if self.dynamic:  # less than half the time of torch.bernoulli
            x = (torch.rand(x.shape, generator=self._generator, device=x.device) < x).to(x)
        return x, self.y[index]


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Data without end: every batch is drawn when it is asked for, where the model computes.

    Arguments:
        source: the data set.
        items: how many make an epoch.
    """

    def __init__(self, source: Draws, items: int) -> None:
        self.source, self.items = source, items
        self._generator = torch.Generator()
        self._epoch, self._seed = 0, 0

    def start_epoch(self, epoch: int, seed: int) -> Tensor:
        """Numbers the items of the coming epoch."""
        self._epoch, self._seed = epoch, seed
        return torch.arange(len(self))

    def move(self, device: torch.device) -> None:
        """Draws there from now on."""
        self._generator = torch.Generator(device)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        first = int(index[0])
        # a seed a batch: the same whichever process draws it, and whatever was drawn before
        self._generator.manual_seed(_mix(self._seed, first) % 2**63)
        return self.source.draw(len(index), self._epoch * len(self) + first, self._generator)


class EpochBatches(Sampler[Tensor]):
    """Shuffled batches of indices; the order of an epoch depends on the seed and the epoch's number only.

    Under several processes every process takes every ``world``-th batch, equally many each.

    Arguments:
        items: what the indices are for.
        batch_size: of every batch but the last, which has what is left.
        seed: of the shuffling.
    """

    def __init__(self, items: Items | Drawn, batch_size: int, seed: int) -> None:
        self.items, self.batch_size, self.seed, self.epoch = items, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch comes."""
        self.epoch = epoch

    def _share(self) -> tuple[int, int]:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size) // self._share()[1]

    def __iter__(self) -> Iterator[Tensor]:
        # a generator reads the epoch when the first batch is asked for: Lightning may set it after calling iter()
        rank, world = self._share()
        order = self.items.start_epoch(self.epoch, _mix(self.seed, self.epoch))
        yield from order.split(self.batch_size)[rank::world][: len(self)]


def hold_out(items: Items, count: int, seed: int) -> tuple[Items, Items]:
    """Splits items at random into those to train on and ``count`` others; data to be drawn are drawn once for these."""
    generator = torch.Generator().manual_seed(seed)
    held, kept = torch.randperm(len(items), generator=generator).split([count, len(items) - count])
    kept = kept.sort().values
    x = items.x[held]
    if items.dynamic:
        x = torch.bernoulli(to_float(x), generator=generator).to(x.dtype) * (1 if x.is_floating_point() else 255)
    return Items(items.x[kept], items.y[kept], items.dynamic), Items(x, items.y[held])


def _mix(seed: int, epoch: int) -> int:
    """A seed for an epoch; distinct for distinct pairs in any practical range."""
    return seed * 1_000_003 + epoch


def batches(items: Items | Drawn, batch_size: int, seed: int) -> "DataLoader[tuple[Tensor, Tensor]]":
    """A loader of shuffled batches; fetching a batch is one indexing operation, not one an item."""
    # a loader draws a seed whenever it starts: from a generator of its own, so that the epoch's noise stays the same
    own = torch.Generator().manual_seed(seed)
    return DataLoader(items, sampler=EpochBatches(items, batch_size, seed), batch_size=None, generator=own)


class DataOnDevice(Callback):
    """Moves the items to the model's device before training.

    A batch is then put together where it is used, instead of being copied at every step.

    Arguments:
        items: the training data, and what else is gone through at every epoch.
    """

    def __init__(self, *items: Items | Drawn) -> None:
        self.items = items

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Each process has its copy."""
        for items in self.items:
            items.move(pl_module.device)


class SeedEpochs(Callback):
    """Seeds every random generator at the start of an epoch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every process of a run gets a seed of its own."""
        seed = _mix(self.seed, trainer.current_epoch) * 1_009 + trainer.global_rank
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)


class Decay(Callback):
    """Lets all learning rates fall linearly to zero at the end of training, on top of what a model's LambdaLR says.

    Arguments:
        share: of the training's steps, above 0 and at most 1.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Depends on the step alone, so that a run that goes on has the same rates."""
        epochs: Any = trainer.max_epochs
        done = (trainer.current_epoch + batch_idx / trainer.num_training_batches) / epochs
        scheduled = {id(config.scheduler.optimizer): config.scheduler for config in trainer.lr_scheduler_configs}
        for optimiser in trainer.optimizers:
            groups = optimiser.param_groups
            scheduler = scheduled.get(id(optimiser))
            rates = scheduler.get_last_lr() if scheduler else [g.setdefault("initial_lr", g["lr"]) for g in groups]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = min(1.0, (1 - done) / self.share) * rate


class LastCheckpoint(Checkpoint):
    """Writes Lightning's checkpoint at the end of every epoch, whole or not at all, always to the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves to a temporary file first: a process that is killed leaves the previous checkpoint as it was."""
        temporary = self.path.with_name(f".{self.path.name}{WRITING}")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.path)


class BestWeights(ModelCheckpoint):
    """Keeps the weights of the epoch with the highest validation bound, and puts them back at the end of training.

    Arguments:
        folder: where the file ``best.ckpt`` is kept while training goes on.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, "best", monitor=VALIDATION, mode="max", save_weights_only=True, enable_version_counter=False
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every process reads the same file."""
        if self.best_model_path:
            found = torch.load(self.best_model_path, map_location=pl_module.device, weights_only=True)
            pl_module.load_state_dict(found["state_dict"])


class History(Callback):
    """Keeps what the model logs, a line an epoch, as JSON lines; prints it where there is no terminal.

    Arguments:
        path: the file. Lines of epochs that are trained again are dropped.
        quiet: do not print.
    """

    def __init__(self, path: Path, quiet: bool) -> None:
        self.path, self.quiet = path, quiet
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops the lines after the checkpoint that training goes on from."""
        if trainer.is_global_zero and self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["epoch"] < trainer.current_epoch]
            write_text(self.path, "".join(f"{line}\n" for line in kept))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Appends a line."""
        logged = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        if not trainer.is_global_zero:
            return
        seconds = round(time.monotonic() - self._started, 1)
        line: dict[str, Any] = {"epoch": trainer.current_epoch, **logged, "seconds": seconds}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if not self.quiet:
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in logged.items())
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {numbers}  {seconds} s", file=sys.stderr)
