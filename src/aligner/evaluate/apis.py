"""What an evaluation asks over the network: upstreams and judges behind addresses, their store, and batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from aligner.errors import ConfigError
from aligner.evaluate.batch import BatchAnswers, BatchJudge, read_answers
from aligner.evaluate.config import EvalConfig, UpstreamSpec
from aligner.generate.openai import OpenAIGenerator
from aligner.generate.store import ResponseStore
from aligner.types import Judge


def api_upstream(spec: UpstreamSpec, store: ResponseStore | None) -> OpenAIGenerator:
    """The upstream behind an address.

    Raises:
        ConfigError: the address is none, or the key's environment variable is not set.
    """
    return OpenAIGenerator(
        str(spec.url), str(spec.served_model), name=spec.name, api_key_env=spec.api_key_env,
        concurrency=spec.concurrency, timeout=spec.timeout, fields=spec.fields, store=store,
    )  # fmt: skip


def judge_store(judge: BatchJudge, store: ResponseStore) -> ResponseStore:
    """Where the judge's answers are: in a file of its own, where it has one, else in the run's `store`."""
    own: ResponseStore | None = getattr(judge, "own_store", None)  # `or` would pass over an empty one
    return store if own is None else own


@contextmanager
def responses(config: EvalConfig, live: Collection[str], judge: Judge) -> Iterator[ResponseStore | None]:
    """The store of responses, told to the judge; None where nothing is asked over an address.

    Raises:
        ConfigError: a batch is asked of a judge that takes none, or written and read at once.
        DataError: a file of batch answers, or the store, cannot be read.
    """
    batch = config.batch_out is not None or bool(config.batch_in)
    if config.batch_out is not None and config.batch_in:
        raise ConfigError("--batch-out and --batch-in exclude each other; write the requests first, read the answers "
                          "later")  # fmt: skip
    if batch and not isinstance(judge, BatchJudge):
        raise ConfigError("--batch-out and --batch-in are for judges behind an address, such as "
                          "aligner.evaluate.llm_judge:judge; this one judges here and now")  # fmt: skip
    # By its name, so that a judge of one's own may have it too.
    prepare: Any = getattr(judge, "prepare", None)
    if prepare is None and all(spec.url is None or spec.name in live for spec in config.upstreams):
        yield None
        return
    with ResponseStore(config.responses) as store:
        api = None
        if config.batch_in and isinstance(judge, BatchJudge):
            kept = judge_store(judge, store)
            api = BatchAnswers(url=judge.api.url, store=kept, errors=read_answers(config.batch_in, kept))
        if prepare is not None:
            prepare(seed=config.seed, store=store, api=api)
        yield store
