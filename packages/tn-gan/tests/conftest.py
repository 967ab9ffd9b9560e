"""What the tests share: a seed for each, one thread."""

import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible() -> None:
    """The same numbers in whichever order the tests run."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
