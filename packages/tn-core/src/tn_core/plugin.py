"""What tn-core itself registers: the commands ``fit``, ``refit`` and ``plugins``."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def commands() -> Targets:
    """``tn fit``, ``tn refit`` and ``tn plugins``."""
    return {"fit": "tn_core.fit:fit", "refit": "tn_core.refit:refit", "plugins": "tn_core.cli:plugins"}
