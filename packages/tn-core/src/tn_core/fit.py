"""``tn fit``: trains a model on a data set and leaves a folder with the model, its config and its history."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from tn_core.components import Component, Spec, build
from tn_core.errors import MOST_SEED, UserError, check_range
from tn_core.plugins import default_host
from tn_core.protocols import Draws
from tn_core.storage import CONFIG, WRITING, build_model, describe, save_model, write_text

if TYPE_CHECKING:
    from tn_core.protocols import Split

__all__ = ["check_new_folder", "fit"]

RUN = "run.yaml"
CHECKPOINT = "last.ckpt"
HISTORY = "history.jsonl"

# what a resumed run may change without becoming another run
_FREE = ("resume", "epochs", "accelerator", "devices", "strategy", "data_root", "out")


def fit(
    *,
    model: Annotated[Spec, Component("models", "VAE")],
    data: Annotated[Spec, Component("datasets", "digits")],
    out: str,
    features: int = 16,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    validation: int = 0,
    patience: int | None = None,
    decay: float = 0.0,
    data_root: str = "data",
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | list[int] | Literal["auto"] = "auto",
    strategy: str = "auto",
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true",
) -> None:
    """Trains a model on a data set.

    The folder ``out`` then holds the model (model.safetensors, config.yaml), the history (history.jsonl, a line an
    epoch), the options (run.yaml), the last checkpoint (last.ckpt) and, with tn-eval, a picture of samples.

    Arguments:
        model: the model.
        data: the data set.
        out: the folder to write, new or empty.
        features: the number of latents, given to every network and prior that asks for it.
        epochs: how often to go through the training data.
        batch_size: items a step (and process).
        seed: of everything random; the same seed gives the same run.
        validation: how many of the training items to hold out, to measure the model on after every epoch. The model of
            the best epoch is kept.
        patience: stop after so many epochs without a better one.
        decay: the share of the training, at its end, in which the learning rates fall linearly to zero.
        data_root: where data sets keep their files.
        resume: go on from the last checkpoint in ``out``; the other options are read from there.
        accelerator: "auto", "cpu", "gpu", as in Lightning.
        devices: how many, or which, as in Lightning.
        strategy: "auto", "ddp", ..., as in Lightning.
        precision: as in Lightning.

    Raises:
        UserError: if something cannot be done as asked.
    """
    options = dict(locals())
    folder = Path(out)
    check_range(1, features=features, epochs=epochs, batch_size=batch_size)
    check_range(0, MOST_SEED, seed=seed)
    check_range(0, validation=validation)
    check_range(1, patience=patience)
    if not 0 <= decay <= 1:
        raise UserError(f"decay must be from 0 to 1, got {decay}")
    if patience is not None and not validation:
        raise UserError("--patience needs items to measure on: --validation 10000, say")
    first = int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0  # of several processes
    if first:
        check_new_folder(folder, resume)
        if resume and (folder / RUN).exists():
            _check_same(options, folder / RUN)

    try:
        import lightning.pytorch as lightning
        from lightning.fabric.utilities.exceptions import MisconfigurationException
    except ModuleNotFoundError as error:
        raise UserError(f"tn fit needs {error.name}: python -m pip install 'tn-core[train]'") from None
    import torch

    from tn_core import training

    host = default_host()
    source = build(data, "datasets", host, root=data_root)
    train = source.split("train")
    _check_data(train)
    if validation >= len(train):
        raise UserError(f"--validation {validation} leaves nothing to train on: there are {len(train)} training items")
    torch.manual_seed(seed)
    config = describe(model, data, source.shape, source.labels, features=features, seed=seed, epochs=epochs)
    module = build_model(config, host)
    items: Any = training.Items(train.x, train.observed, train.dynamic)
    held = None
    if not isinstance(module, lightning.LightningModule):
        raise UserError(f"{model['name']} cannot be trained: it is no LightningModule")
    keeping: list[Any] = []
    if validation:
        if type(module).validation_step is lightning.LightningModule.validation_step:
            raise UserError(f"{model['name']} has no validation_step: train it without --validation")
        items, held = training.hold_out(items, validation, seed)
        keeping.append(training.BestWeights(folder))
        if patience is not None:
            keeping.append(lightning.callbacks.EarlyStopping(training.VALIDATION, patience=patience, mode="max"))
    if isinstance(source, Draws):
        items = training.Drawn(source, len(train))
    if decay:
        keeping.append(training.Decay(decay))

    terminal = sys.stderr.isatty()
    bars = [lightning.callbacks.TQDMProgressBar(refresh_rate=20)] if terminal else []
    trainer = _quiet_trainer(
        lightning,
        max_epochs=epochs,
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
        precision=precision,
        default_root_dir=folder,
        callbacks=[
            training.SeedEpochs(seed),
            training.DataOnDevice(*filter(None, (items, held))),
            training.History(folder / HISTORY, quiet=terminal),
            *keeping,
            training.LastCheckpoint(folder / CHECKPOINT),
            *bars,
        ],
        enable_progress_bar=terminal,
        logger=_tensorboard(lightning, folder),
    )
    new = not folder.exists()
    if first:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(f".*{WRITING}"):  # of a run that was killed while it wrote
                stale.unlink()
            write_text(folder / RUN, yaml.safe_dump(options, sort_keys=False))
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error}") from None
    checkpoint = folder / CHECKPOINT
    goes_on = resume and checkpoint.exists()
    try:
        trainer.fit(
            module,
            training.batches(items, batch_size, seed),
            None if held is None else training.batches(held, batch_size, seed),
            ckpt_path=checkpoint if goes_on else None,
            weights_only=True if goes_on else None,  # the checkpoint may come from elsewhere
        )
    except SystemExit:  # what Lightning makes of Ctrl-C
        hint = f"go on with: tn fit --resume --out {out}" if checkpoint.exists() else "no epoch was finished"
        print(f"tn: stopped; {hint}", file=sys.stderr)
        raise KeyboardInterrupt from None
    except ValueError as error:
        if trainer.global_step or goes_on:
            raise
        if trainer.is_global_zero:
            (folder / RUN).unlink()  # there is no run to go on with
            if new:
                with suppress(OSError):  # a logger may have written something
                    folder.rmdir()
        raise UserError(f"{model['name']} cannot be trained on {data['name']}: {error}") from error
    except (RuntimeError, EOFError, KeyError, OSError, UnpicklingError, MisconfigurationException) as error:
        in_training = trainer.global_step and not isinstance(error, MisconfigurationException)
        if not goes_on or in_training:
            raise
        raise UserError(f"cannot go on from {checkpoint}: {' '.join(str(error).split())[:300]}") from None
    if trainer.is_global_zero:
        save_model(module, config, folder)
        print(f"model: {folder}")
        if "sample" in host.names("commands") and hasattr(module, "sample") and len(source.shape) == 3:
            host.get("commands", "sample")(run=str(folder))


def check_new_folder(folder: Path, resume: bool = False) -> None:
    """Refuses a folder that is in use, or cannot be written, before any work starts."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --out needs a folder that is new or empty")
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        known = (folder / CONFIG).exists() or (folder / RUN).exists()
        hint = "it holds a run: go on with --resume, or choose another" if known else "choose another"
        raise UserError(f"the folder {folder} is not empty; {hint}")
    if resume and not folder.is_dir():
        raise UserError(f"nothing to resume: there is no folder {folder}")
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"cannot write to {folder}: {parent} is not a writable folder")


def _check_same(options: Mapping[str, Any], path: Path) -> None:
    """A resumed run must be the same run."""
    before = yaml.safe_load(path.read_text())
    for name, value in options.items():
        if name not in _FREE and before.get(name) != value:
            raise UserError(f"--resume goes on with the same run, but {name} was {before.get(name)!r} and is {value!r}")


def _check_data(split: "Split") -> None:
    if len(split) == 0:
        raise UserError("the training data is empty")
    if split.x.is_floating_point() and not bool(split.x.isfinite().all()):
        raise UserError("the training data holds NaN or infinite values")


def _tensorboard(lightning: Any, folder: Path) -> Any:
    """TensorBoard's logger if it is installed."""
    with suppress(ModuleNotFoundError):
        return lightning.loggers.TensorBoardLogger(folder, name="", version="tensorboard")
    return False


def _quiet_trainer(lightning: Any, **arguments: Any) -> Any:
    """A Trainer without banners: what it has to say is in the history."""
    import logging
    import warnings

    from lightning.fabric.utilities.exceptions import MisconfigurationException

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*Grad strides.*",
        ".*LeafSpec.*",
        ".*Checkpoint directory.*",
        ".*lr_scheduler.*",
        ".*no `val_dataloader`.*",
    ):
        warnings.filterwarnings("ignore", text)
    try:
        return lightning.Trainer(
            enable_model_summary=False,
            use_distributed_sampler=False,
            inference_mode=False,  # what validation computes may be kept for training
            num_sanity_val_steps=0,
            **arguments,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"Lightning refuses these options: {' '.join(str(error).split())}") from None
