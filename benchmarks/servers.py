"""Servers of the benchmarks: our gateway, LiteLLM's proxy and the upstream behind both, each a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aligner

HERE = Path(__file__).resolve().parent
LITELLM = "litellm[proxy]==1.106.2"
_ENVIRONMENT = HERE.parent / "runs" / "peers" / "litellm"
_CONFIG = """\
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "{upstream}/v1", api_key: none, max_retries: 0}}
litellm_settings: {{{hook}telemetry: false, num_retries: 0}}
"""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """Run a server until the block ends; yields http://127.0.0.1:PORT once it listens there."""
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written, env={**os.environ, **environment})
    try:
        begin = time.monotonic()
        while not _listens(port):
            if process.poll() is not None or time.monotonic() - begin > 180:
                raise SystemExit(f"{command[0]} does not serve:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def upstream(work: Path, answers: Path | None = None) -> Any:
    """The upstream that answers at once."""
    port = free_port()
    command = [sys.executable, str(HERE / "mock_upstream.py"), "--port", str(port)]
    return serving([*command, *(["--answers", str(answers)] if answers else [])], port, work / "upstream.log")


def gateway(work: Path, corrector: Path, behind: str, *options: str) -> Any:
    """`aligner serve`, with whatever options."""
    port = free_port()
    command = [sys.executable, "-c", "import sys; from aligner.cli import main; sys.exit(main())", "serve",
               "--aligner", str(corrector), "--upstream", f"{behind}/v1", "--port", str(port), *options]  # fmt: skip
    return serving(command, port, work / f"gateway-{port}.log")


def litellm(work: Path, behind: str, corrector: Path | None = None) -> Any:
    """LiteLLM's proxy: one worker, no database, no keys; with a corrector, a hook that calls it after every answer."""
    port = free_port()
    place = work / f"litellm-{port}"
    place.mkdir()
    hook = "callbacks: litellm_hook.hook, " if corrector is not None else ""
    (place / "config.yaml").write_text(_CONFIG.format(upstream=behind, hook=hook), encoding="utf-8")
    shutil.copy(HERE / "litellm_hook.py", place)
    libraries = (sysconfig.get_path("purelib"), str(Path(aligner.__file__).resolve().parents[1]))
    command = [str(litellm_environment() / "bin" / "litellm"), "--config", str(place / "config.yaml"), "--host",
               "127.0.0.1", "--port", str(port), "--num_workers", "1"]  # fmt: skip
    return serving(
        command, port, work / f"litellm-{port}.log", LITELLM_LOG="ERROR", LITELLM_MODE="PRODUCTION",
        LITELLM_LOCAL_MODEL_COST_MAP="True", CORRECTOR=str(corrector or ""), CORRECTOR_PATH=os.pathsep.join(libraries),
    )  # fmt: skip


def litellm_environment() -> Path:
    """LiteLLM's virtual environment, made on first use: its dependencies clash with ours."""
    if not (_ENVIRONMENT / "bin" / "litellm").is_file():
        print(f"installing {LITELLM} into an environment of its own …", file=sys.stderr)
        venv.create(_ENVIRONMENT, with_pip=True)
        subprocess.run([_ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", LITELLM], check=True)
    return _ENVIRONMENT


def post(url: str, body: Mapping[str, Any]) -> Any:
    """One reply of a server, as JSON."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def loaded(url: str, bodies: Path, concurrency: int, seconds: float, *, warmup: float, skip: int = 0) -> Any:
    """What the load generator saw of a server."""
    command = [sys.executable, str(HERE / "http_load.py"), "--url", f"{url}/v1/chat/completions", "--bodies",
               str(bodies), "--concurrency", str(concurrency), "--seconds", str(seconds), "--warmup", str(warmup),
               "--skip", str(skip)]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    if found["lost"] or set(found["statuses"]) != {"200"}:
        raise SystemExit(f"{url}: not every request was answered: {found}")
    return found


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
