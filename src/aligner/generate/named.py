"""Things that a configuration names as `module:callable`: judges and scorers of one's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from aligner.config import nearest
from aligner.errors import AlignerError, ConfigError


def make_named(call: str, arguments: Mapping[str, Any], setting: str, takes: str) -> Any:
    """Import what `call` names and call it with `arguments`.

    Args:
        setting: what the message calls the setting that holds `call`, and `takes` the one that holds the arguments.

    Raises:
        ConfigError: there is no such module or name in it, or it refuses the arguments.
    """
    where = f"{setting} '{call}'"
    module_name, _, path = call.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        missing = f"no module is called '{e.name}'"
        raise ConfigError(f"{where}: {missing}; install it, or start where its file lies") from None
    except Exception as e:
        raise ConfigError(f"{where}: the module cannot be imported ({said(e)})") from e
    for name in path.split("."):
        if not hasattr(found, name):
            known = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n))]
            raise ConfigError(f"{where}: nothing in it is called '{name}'; {nearest(name, known)}")
        found = getattr(found, name)
    if not callable(found):
        makes = "judge" if setting.startswith("judge") else "scorer or judge"
        raise ConfigError(f"{where}: it is a {type(found).__name__} and cannot be called; name what makes the {makes}")
    try:
        return found(**arguments)
    except AlignerError:
        raise
    except Exception as e:
        raise ConfigError(f"{where}: it cannot be made with {takes} ({said(e)})") from e


def said(error: Exception) -> str:
    """An error on one line, for a message or a row."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
