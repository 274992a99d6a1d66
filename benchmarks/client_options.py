"""The command line that all clients of a server share; it loads nothing that would cost them time."""

from __future__ import annotations

import argparse
from pathlib import Path


def client_options(about: str, file: str) -> argparse.ArgumentParser:
    """A parser for the server's --url, the option `file` with what is sent, and --concurrency."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument(file, type=Path, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    return parser
