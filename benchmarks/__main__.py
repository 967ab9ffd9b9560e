"""``python -m benchmarks chain``, ``closing``, ``gradients``, ``parts``, ``plans``, ``precision``.

See docs/performance.md.
"""

import json as json_module
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

TABLES = ("ranks", "growth", "long", "training", "gan")


def chain(
    device: str = "cpu",
    json: Path | None = None,
    ranks: list[int] = [1, 10, 20, 50, 100],  # noqa: B006
    lengths: list[int] = [10, 100, 1_000, 10_000],  # noqa: B006
    batches: list[int] = [10, 100, 1_000, 10_000],  # noqa: B006
    components: list[int] = [5, 20, 40],  # noqa: B006
    n: int = 100,
    batch: int = 128,
    tables: list[str] = list(TABLES),  # noqa: B006
    seconds: float = 8.0,
) -> None:
    """Measures the chain beside the sequential yardstick and the floor, and training with it.

    Args:
        device: cpu or cuda.
        json: where to write the figures.
        ranks: core sizes of the first table.
        lengths: numbers of variables of the table of growth.
        batches: batch sizes of the table of growth.
        components: numbers of components of the table of growth.
        n: the number of variables of the first table.
        batch: the batch size.
        tables: any of ranks, growth, long (10,000 variables trained in a process of their own), training, gan.
        seconds: how long each group of cases takes turns.
    """
    from benchmarks.chain import COMPONENTS, by_rank, growth
    from benchmarks.training import loop_overhead, share_in_a_gan, share_of_the_prior

    unknown = sorted(set(tables) - set(TABLES))
    if unknown:
        raise SystemExit(f"tables are {', '.join(TABLES)}; not {', '.join(unknown)}")
    where = torch.device(device)
    found: dict[str, Any] = {"about": about(where)}

    def report(name: str, rows: list[dict[str, Any]]) -> None:
        found.setdefault(name, []).extend(rows)
        show(rows)
        write(found, json)  # after every part, so that a run that is stopped leaves what it has

    for rank in ranks if "ranks" in tables else ():
        report("ranks", by_rank(rank, n, batch, where, seconds))
    if "growth" in tables:
        sizes = [(length, batch, COMPONENTS) for length in lengths] + [(n, rows, COMPONENTS) for rows in batches]
        for length, rows, count in sizes + [(n, batch, count) for count in components]:
            report("growth", growth(length, rows, count, 20, where, seconds))
    if "long" in tables and where.type == "cpu":
        command = [sys.executable, "-m", "benchmarks.long"]
        report("long", [json_module.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)])
    if "training" in tables:
        report("training", share_of_the_prior(where))
        report("loop", [loop_overhead(where)])
    if "gan" in tables:
        report("gan", share_in_a_gan(where))


def parts(
    device: str = "cpu",
    json: Path | None = None,
    sizes: list[int] = [1, 2, 4, 8, 16, 30],  # noqa: B006
    seconds: float = 10.0,
) -> None:
    """Measures a training step of CompVAE beside a loop over the parts.

    Args:
        device: cpu or cuda.
        json: where to write the figures.
        sizes: the largest numbers of parts.
        seconds: how long the two take turns for each.
    """
    from benchmarks.parts import step_by_parts

    where = torch.device(device)
    rows = step_by_parts(where, sizes, seconds)
    show(rows)
    write({"about": about(where), "parts": rows}, json)


def about(device: torch.device) -> dict[str, Any]:
    """What the figures were made with."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {
        "date": date.today().isoformat(),
        "machine": machine,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "float32 products": torch.get_float32_matmul_precision(),
    }


def write(found: dict[str, Any], path: Path | None) -> None:
    """Writes what was found as JSON, if it is wanted."""
    if path is not None:
        path.write_text(json_module.dumps(found, indent=1) + "\n")


def show(rows: list[dict[str, Any]]) -> None:
    """Prints rows, one a line."""
    for row in rows:
        cells = (
            f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" if k in ("prior", "operation") else f"{k} {v}"
            for k, v in row.items()
        )
        print("  ".join(cells), flush=True)


def closing(
    run: str,
    data: str = "mnist",
    data_root: str = "data",
    rank: int = 20,
    closing_ranks: list[int] = [1, 2, 4, 8],  # noqa: B006
    steps: int = 1_000,
    seeds: int = 3,
    json: Path | None = None,
) -> None:
    """Measures what the width of a ring's closing bond costs in held-out likelihood of a trained model's latents.

    Args:
        run: the folder of a trained VAE.
        data: its data set.
        data_root: where data sets keep their files.
        rank: the core size.
        closing_ranks: widths of the closing bond.
        steps: gradient steps of each fit.
        seeds: fits of each prior.
        json: where to write the figures.
    """
    from benchmarks.closing import held_out, latents

    train, test = latents(Path(run), data, data_root)
    rows = held_out(train, test, rank, closing_ranks, steps, seeds)
    show(rows)
    write({"about": about(torch.device("cpu")), "closing": rows}, json)


def precision(ranks: list[int] = [20, 50, 100], json: Path | None = None) -> None:  # noqa: B006
    """Measures what TF32 and bfloat16 would do to a log density.

    Args:
        ranks: core sizes.
        json: where to write the figures.
    """
    from benchmarks.precision import errors

    rows = [row for rank in ranks for row in errors(rank)]
    show(rows)
    write({"about": about(torch.device("cpu")), "precision": rows}, json)


def gradients(
    n: int = 64,
    rank: int = 20,
    batches: int = 200,
    seeds: int = 3,
    runs: list[Path] = [],  # noqa: B006
    json: Path | None = None,
) -> None:
    """Measures how noisy the gradients of a GAN's prior are, by each estimator.

    Args:
        n: the number of latents, with a smooth function as the critic.
        rank: the core size, with a smooth function as the critic.
        batches: gradients to draw, each from 128 latents.
        seeds: priors and functions to draw, at either start of a prior.
        runs: folders of trained GANs, to measure with their own critics as well.
        json: where to write the figures.
    """
    from benchmarks.gradients import of_a_run, of_a_smooth_function

    rows = of_a_smooth_function(n, rank, batches, seeds) + [of_a_run(folder, batches) for folder in runs]
    show(rows)
    write({"about": about(torch.device("cpu")), "gradients": rows}, json)


def plans(
    device: str = "cpu",
    json: Path | None = None,
    lengths: list[int] = [22, 100],  # noqa: B006
    ranks: list[int] = [10, 20, 64, 100],  # noqa: B006
    batches: list[int] = [128, 1_000],  # noqa: B006
    seconds: float = 1.0,
) -> None:
    """Measures every plan of the contraction beside the one that the cost function chooses.

    Args:
        device: cpu or cuda.
        json: where to write the figures.
        lengths: numbers of variables.
        ranks: core sizes.
        batches: batch sizes.
        seconds: how long each plan is run at each size.
    """
    from benchmarks.plans import every_plan

    where = torch.device(device)
    rows = every_plan(lengths, ranks, batches, where, seconds)
    show(rows)
    write({"about": about(where), "plans": rows}, json)


if __name__ == "__main__":
    commands: Any = {
        "chain": chain,
        "closing": closing,
        "gradients": gradients,
        "parts": parts,
        "plans": plans,
        "precision": precision,
    }
    auto_cli(commands, as_positional=False)
