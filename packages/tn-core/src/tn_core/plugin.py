"""What tn-core itself registers: the commands ``fit`` and ``plugins``."""

from tn_core.hookspecs import Targets, hookimpl


@hookimpl
def commands() -> Targets:
    """``tn fit`` and ``tn plugins``."""
    return {"fit": "tn_core.fit:fit", "plugins": "tn_core.cli:plugins"}
