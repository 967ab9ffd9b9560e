"""Side-by-side measurements; ``python -m benchmarks --help``."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or torch's profiler, which measures memory, reports every start
