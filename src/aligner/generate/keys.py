"""Keys: from an environment variable or a file, and refused where no header can hold them."""

from __future__ import annotations

import os

from aligner.errors import ConfigError


def key_in(variable: str) -> str:
    """The key in an environment variable, without the white space around it.

    Raises:
        ConfigError: the variable is not set, or holds something else.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {variable} is not set; put the key in it")
    return checked(key, f"the environment variable {variable}")


def checked(key: str, where: str) -> str:
    """The key itself.

    Raises:
        ConfigError: it holds what no header can; `where` it was found is told, and nothing of it.
    """
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{where} holds characters that no key has; put the key alone in it")
    return key
