"""Constructor arguments of an original model: each is mapped or refused, none is silently ignored."""

from collections.abc import Mapping
from typing import Any

from vfm.errors import UserError


class Arguments:
    """Constructor arguments with defaults; one that nobody asks for is an error, not a silent difference.

    Args:
      given: the arguments.
      idle: names of arguments without effect on names, shapes or evaluation-mode numbers.
    """

    def __init__(self, given: Mapping[str, Any], idle: set[str]):
        self.given, self.asked = dict(given), set(idle)

    def __call__(self, key: str, default: Any) -> Any:
        self.asked.add(key)
        return self.given.get(key, default)

    def finish(self) -> None:
        """UserError if an argument was given that nobody asked for."""
        left = sorted(self.given.keys() - self.asked)
        if left:
            raise UserError(
                "constructor arguments that this family does not map: "
                + ", ".join(f"{key}={self.given[key]!r}" for key in left)
            )


def only(key: str, value: Any, supported: Any, why: str) -> None:
    """UserError unless `value` is the one that is supported."""
    if value != supported:
        raise UserError(f"constructor argument {key}={value!r} is not supported (only {supported!r}): {why}")


def pair(size: int | list[int]) -> tuple[int, int]:
    """(height, width) of a size that is one number for both, or two."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def square(key: str, size: int | list[int]) -> int:
    """The one number of a size; UserError where height and width differ."""
    height, width = pair(size)
    if height != width:
        raise UserError(f"constructor argument {key}={size!r} is not supported: patches are square")
    return height
