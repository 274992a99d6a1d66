"""`aligner serve`: the corrector is loaded, the gateway built from its settings, and served until it is stopped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aligner.correct.aligner import Aligner
from aligner.correct.keep_best import load_ranker
from aligner.correct.loading import load_corrector
from aligner.errors import ConfigError
from aligner.generate.keys import checked, key_in
from aligner.runs import Existing, RunDir, check_apart
from aligner.serve.choice import Choice
from aligner.serve.config import ServeConfig
from aligner.serve.endpoint import Corrected
from aligner.serve.gateway import Gateway
from aligner.serve.headers import Door
from aligner.serve.metrics import Metrics
from aligner.serve.policy import Policy
from aligner.serve.shadow import Shadow
from aligner.serve.upstreams import Upstream, Upstreams
from aligner.types import Corrector

if TYPE_CHECKING:
    import uvicorn

    from aligner.correct.remote import RemoteAligner


def run(config: ServeConfig, existing: Existing = "refuse", told: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted. `told` is called with the address once it answers.

    Raises:
        ConfigError: a setting is wrong, or the port is taken.
        RunError: the directory of shadow mode exists.
        CheckpointError: the corrector cannot be loaded.
    """
    with _corrector(config) as corrector:
        app = gateway(config, corrector, existing)
        # What the libraries hold never goes, and to search it for garbage stops every request for a third of a second.
        gc.collect()
        gc.freeze()
        with _bound(server_settings(config, app)) as server:
            if told is not None:
                host, port = server.sockname
                told(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
            server.run()


def gateway(config: ServeConfig, corrector: Corrector, existing: Existing = "refuse") -> Gateway:
    """The application of some settings, in front of a corrector that is loaded already.

    Raises:
        ConfigError: a setting is wrong.
        CheckpointError: the corrector was not calibrated for the gate, or no scoring model lies there.
        RunError: the directory of shadow mode exists.
    """
    keys = client_keys(config)
    named = upstream_keys(config)
    all_upstreams = [Upstream.parse(text, named) for text in config.upstream]
    known = {upstream.name for upstream in all_upstreams}
    if unknown := [name for name in named if name not in known]:
        what = f"no upstream is called '{unknown[0]}'" if unknown[0] else "every upstream has a name"
        raise ConfigError(f"--upstream-key-env: {what}; give NAME=VARIABLE with the name of one --upstream NAME=URL")
    upstreams = Upstreams(all_upstreams, timeout=config.upstream_timeout, answer_limit=config.answer_limit)
    card = getattr(corrector, "card", None)
    if config.sentences and (card is None or card.prompt.unit != "sentence"):
        raise ConfigError(f"--sentences: the corrector {config.aligner} was trained on whole answers; train one with "
                          "unit=sentence, or leave it out")  # fmt: skip
    ranker = None
    if config.scorer is not None and isinstance(corrector, Aligner):
        ranker = load_ranker(config.scorer, corrector, config.device, config.dtype)
    choice = Choice(
        corrector,
        gate=config.gate,
        ranker=ranker,
        best_of=config.best_of,
        most=config.max_best_of,
        margin=config.margin,
    )
    metrics = Metrics()
    policy = Policy(
        metrics, on_failure=config.on_failure, strict=config.strict, timeout=config.correction_timeout,
        max_waiting=config.max_waiting,
    )  # fmt: skip
    shadow = None
    if config.out is not None:
        check_apart(config.out, [config.aligner])
        shadow = Shadow(policy, RunDir.create(config.out, config, existing).samples())
    corrected = Corrected(
        upstreams, policy, choice, share=config.share, seed=config.seed, own_keys=bool(keys),
        sentences=config.sentences, shadow=shadow,
    )  # fmt: skip
    return Gateway(
        upstreams, corrected, Door(keys, config.host, config.allow_host), metrics,
        max_requests=config.max_requests, body_limit=config.body_limit,
    )  # fmt: skip


def server_settings(config: ServeConfig, app: Gateway) -> uvicorn.Config:
    """How uvicorn serves an application of these settings."""
    import uvicorn

    return uvicorn.Config(
        app, host=config.host, port=config.port, log_level="warning", access_log=False, server_header=False,
        http="httptools", lifespan="on", ws="none", timeout_graceful_shutdown=10,
    )  # fmt: skip


def client_keys(config: ServeConfig) -> list[str]:
    """The keys that clients may send; none where none is asked for.

    Raises:
        ConfigError: the variable or the file is not there, or holds no key or what is none.
    """
    keys: list[str] = []
    if config.client_keys_env is not None:
        keys += [key.strip() for key in key_in(config.client_keys_env).split(",") if key.strip()]
    if config.client_keys_file is not None:
        keys += _lines(config.client_keys_file)
    if not keys and (config.client_keys_env is not None or config.client_keys_file is not None):
        raise ConfigError("client keys are asked for and there is none; put at least one in the variable or the file")
    return keys


def upstream_keys(config: ServeConfig) -> Mapping[str, str]:
    """Upstreams' keys by their names, "" of the one that has none: nobody is sent a key that was given for another.

    Raises:
        ConfigError: a variable is not set.
    """
    pairs = (text.rpartition("=") for text in config.upstream_key_env)
    return {name: key_in(variable) for name, _, variable in pairs}


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors put a mark before the first line
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"{path}: the keys cannot be read ({type(e).__name__}); give a file of one key a line"
        ) from None
    return [checked(line.strip(), f"{path}:{i}") for i, line in enumerate(lines, start=1) if line.strip()]


def _corrector(config: ServeConfig) -> Aligner | RemoteAligner:
    return load_corrector(
        config.aligner, tokenizer=config.tokenizer, served=config.served_aligner, sends=config.aligner_takes,
        api_key_env=config.aligner_key_env, prompt=config.prompt, device=config.device, dtype=config.dtype,
        max_rows=config.max_rows, cache_tokens=config.cache_tokens, speculate=config.speculate,
        guards=config.guards, quantize=config.quantize,
    )  # fmt: skip


class _Server:
    """uvicorn's server on a socket that is bound before it runs, so that a taken port is told in one line."""

    def __init__(self, config: uvicorn.Config, socket: object) -> None:
        self._config, self._socket = config, socket
        self.sockname: tuple[str, int] = socket.getsockname()[:2]  # type: ignore[attr-defined]

    def run(self) -> None:
        import uvicorn

        uvicorn.Server(self._config).run(sockets=[self._socket])  # type: ignore[list-item]


@contextmanager
def _bound(config: uvicorn.Config) -> Iterator[_Server]:
    import socket

    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((config.host, config.port))
        except OSError as e:
            raise ConfigError(f"{config.host}:{config.port} cannot be listened at ({e.strerror or e}); choose another "
                              "--port or --host") from None  # fmt: skip
        bound.listen(2048)
        yield _Server(config, bound)
