"""Trains a ring over 10,000 variables; run in a process of its own, as its memory is what is measured."""

import json
import time
from pathlib import Path

import torch

from tn_priors import TRIP

FEATURES, COMPONENTS, RANK, BATCH, STEPS = 10_000, 10, 20, 128, 5


def main() -> None:
    """Prints the seconds of a step, the log likelihoods, and the most memory that the process ever held."""
    torch.manual_seed(0)
    prior = TRIP(FEATURES, COMPONENTS, RANK)
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    z = torch.randn(BATCH, FEATURES)
    seconds, likelihoods = [], []
    for _ in range(STEPS):
        begin = time.perf_counter()
        loss = -prior().log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        likelihoods.append(-loss.item())
    print(json.dumps({"seconds a step": min(seconds), "log likelihoods": likelihoods, "peak GiB": peak_gibibytes()}))


def peak_gibibytes() -> float:
    """The most resident memory of this program (Linux); getrusage counts that of the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


if __name__ == "__main__":
    main()
