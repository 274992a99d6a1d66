"""Runs the Python and shell blocks of Markdown files, top to bottom, and fails with the first that fails.

    python docs/run_blocks.py README.md docs/how-to/*.md

All Python blocks of one file share one interpreter, so a later block may use an earlier one's names. Blocks in any
other language (`console`, `yaml`, `text`) are shown, not run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, language, code) of every block that is to be run."""
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[1], match[2]


def run_file(path: Path) -> bool:
    """Run one file's blocks; says which block failed and how."""
    names: dict[str, object] = {"__name__": "__main__"}
    for line, language, code in blocks(path.read_text(encoding="utf-8")):
        print(f"== {path}:{line} ({language})", flush=True)
        begin = time.monotonic()
        try:
            if language == "python":
                exec(compile("\n" * line + code, str(path), "exec"), names)  # the project's own documents
            else:
                subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
        except Exception as e:
            print(f"{path}:{line}: the {language} block failed: {type(e).__name__}: {e}", file=sys.stderr)
            return False
        print(f"   {time.monotonic() - begin:.1f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(0 if all(run_file(Path(name)) for name in sys.argv[1:]) else 1)
