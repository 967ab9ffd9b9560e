"""The one exception that the command line answers with a single line instead of a traceback."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something the user can put right: the message says what was wrong and what is allowed."""
