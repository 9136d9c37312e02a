"""Ranges of numbers in a config: one that lies outside is an error that says the key, the value and the range."""

import math
from collections.abc import Mapping
from typing import Any

from vfm.errors import UserError

# key -> (least, most, whether the most is itself allowed)
Ranges = Mapping[str, tuple[float, float, bool]]

LOADING: Ranges = {
    "workers": (0, math.inf, False),
    "threads": (0, math.inf, False),
    "prefetch": (1, math.inf, False),
    "cache_size": (0, math.inf, False),
    "max_bad_fraction": (0, 1, True),
    "stall_seconds": (0, math.inf, False),
}


def check_numbers(values: Mapping[str, Any], ranges: Ranges, name: str) -> None:
    """Compare those of `values` that `ranges` has; None and keys that are not there are left alone.

    Args:
      name: what errors call the group of keys, such as "data".

    Raises:
      UserError: a number outside its range.
    """
    for key, (least, most, closed) in ranges.items():
        value = values.get(key)
        if value is None or least <= value < most or (closed and value == most):
            continue
        expected = f"at least {least}"
        if most < math.inf:
            expected = f"a number from {least} to {'' if closed else 'below '}{most}"
        raise UserError(f"{name}.{key}={value}: expected {expected}")


def check_loading(data: Mapping[str, Any]) -> None:
    """The keys of `config.data` that say how clips are read.

    Raises:
      UserError: a number outside its range.
    """
    check_numbers(data, LOADING, "data")
    if data.get("threads") == 0 and not data.get("workers"):
        raise UserError("data.threads=0: expected at least 1 where there are no processes (data.workers=0)")
