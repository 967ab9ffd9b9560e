"""Times and memory: medians of interleaved runs, and the most that was allocated at once."""

import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def interleaved(
    cases: dict[str, Callable[[], object]], device: torch.device, seconds: float = 6.0, most: int = 40
) -> dict[str, float]:
    """Median milliseconds of each case; the cases take turns, so that a slow spell of the machine meets all of them.

    Arguments:
        cases: what to run.
        device: waited for before a clock is read.
        seconds: when to stop after a round, once every case has run five times.
        most: the number of rounds at most.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for run in cases.values():
        run()
    gc.collect()
    gc.disable()
    started = time.perf_counter()
    while len(next(iter(times.values()))) < most:
        for name, run in cases.items():
            _wait(device)
            begin = time.perf_counter()
            run()
            _wait(device)
            times[name].append(1e3 * (time.perf_counter() - begin))
        if time.perf_counter() - started > seconds and len(next(iter(times.values()))) >= 5:
            break
    gc.enable()
    return {name: statistics.median(found) for name, found in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_megabytes(run: Callable[[], object], device: torch.device) -> float:
    """The most memory that tensors took at once during a run, above what they took before it."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    now = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 2**20
