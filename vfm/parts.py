"""Parts: components that a config names, such as a mask, a target, a loss or an encoder.

A part is a mapping `{"name": ..., **keyword arguments}`. Its name is an attribute of the home module of
its kind, or "vfm.package.module:attribute" for a part in a file of its own. Only modules inside `vfm` are
resolved, so that the config beside a downloaded checkpoint cannot import anything else.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vfm.errors import UserError


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known word nearest to `word`, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""


def resolve(name: str, home: str) -> Callable[..., Any]:
    """The callable that `name` stands for; `home` is the module that holds the short names."""
    module_name, _, attribute = name.rpartition(":") if ":" in name else (home, "", name)
    if module_name != "vfm" and not module_name.startswith("vfm."):
        raise UserError(f"part '{name}': parts live inside the package vfm; write 'vfm.module:attribute'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"part '{name}': no module '{module_name}'; check the spelling") from error
    public = getattr(module, "__all__", None) or [
        n
        for n, v in vars(module).items()
        if callable(v) and not n.startswith("_") and getattr(v, "__module__", "") == module_name
    ]
    if attribute not in public:
        raise UserError(
            f"part '{name}': '{module_name}' has no '{attribute}'{nearest(attribute, public)}; "
            f"it has: {', '.join(sorted(public))}"
        )
    return getattr(module, attribute)


def build(part: Mapping[str, Any], home: str, **extra: Any) -> Any:
    """Call the part's callable with the part's other keys and `extra`.

    Raises:
      UserError: the name or a key is unknown; the message names the nearest known one.
    """
    arguments = dict(part)
    if "name" not in arguments:
        raise UserError(f"a part of {home} needs a 'name', found keys: {', '.join(sorted(arguments))}")
    name = arguments.pop("name")
    function = resolve(name, home)
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in arguments:
            if key not in parameters:
                known = [k for k in parameters if k not in extra]
                raise UserError(
                    f"part '{name}' of {home} has no key '{key}'{nearest(key, known)}; it takes: {', '.join(known)}"
                )
    return function(**arguments, **extra)
