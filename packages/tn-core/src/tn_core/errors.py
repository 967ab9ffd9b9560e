"""The one exception that the command line answers with a single line instead of a traceback."""

__all__ = ["MOST_SEED", "UserError", "check_range"]

MOST_SEED = 2**32 - 1


class UserError(Exception):
    """Something the user can put right: the message says what was wrong and what is allowed."""


def check_range(least: int, most: int | None = None, **numbers: int | None) -> None:
    """Raises a UserError that names the first number out of its range; None is a number that was not given."""
    for name, value in numbers.items():
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"at least {least}" if most is None else f"from {least} to {most}"
            raise UserError(f"{name} must be {allowed}, got {value}")
