"""Settings of all tests."""

import torch

# small tensors: more threads only cost time, and figures should not depend on the machine
torch.set_num_threads(1)
