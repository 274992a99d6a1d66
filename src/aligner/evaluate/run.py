"""`aligner eval`: answers of upstreams, corrected and judged, resumable question by question."""

from __future__ import annotations

import time
from collections.abc import Generator as Generates
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aligner.errors import ConfigError
from aligner.evaluate import answering, correcting, revising
from aligner.evaluate.apis import api_upstream, judge_store, responses
from aligner.evaluate.batch import BatchJudge, left_over, write_requests
from aligner.evaluate.config import CorrectorSpec, EvalConfig, UpstreamSpec
from aligner.evaluate.inputs import FILE_NAME as INPUTS
from aligner.evaluate.inputs import check_checkpoints, check_finished, read_inputs, record_inputs
from aligner.evaluate.judging import Bench, check_judge, judge_spent, load_judge
from aligner.evaluate.loading import Loader, free_memory, say
from aligner.evaluate.planted import Planted
from aligner.evaluate.progress import Progress
from aligner.evaluate.questions import with_questions, write_questions
from aligner.evaluate.store import Store
from aligner.evaluate.stored import stored_answers, stored_corrections
from aligner.evaluate.summary import summarise
from aligner.evaluate.tasks import Suite
from aligner.generate.collect import run_sync
from aligner.generate.method import load_method
from aligner.generate.revise import Revise
from aligner.generate.store import ResponseStore
from aligner.rows import storage_errors
from aligner.runs import Existing, RunDir
from aligner.types import Generator, Judge

if TYPE_CHECKING:
    from aligner.correct.aligner import Aligner


def run(
    config: EvalConfig,
    existing: Existing = "refuse",
    judge: Judge | None = None,
    upstreams: Mapping[str, Generator] | None = None,
) -> RunDir:
    """Measure correctors into `config.out`: answers, corrections, verdicts, table.json and result.json.

    Everything is kept as it finishes. With existing="resume" nothing that is there is done again; what failed is asked
    for once more, also when the run was finished. Only what has to run is loaded, one model at a time: stored answers
    and corrections need no model library. With `batch_out` the run stops before judging and writes the judge's requests
    instead; a resumed one with `batch_in` reads the replies.

    Args:
        config: what is measured.
        existing: what to do with a run directory that is there.
        judge: takes the place of the configuration's.
        upstreams: live ones by name; each takes the place of the model or stored answers of that name.

    Raises:
        ConfigError, DataError, CheckpointError: what the run needs is missing or wrong, an upstream answers nothing, or
            a corrector or the judge fails at everything.
        RunError: the directory exists, or was started with another configuration, other files or other models.
        GenerationError: an upstream failed on a whole batch; go on with resume.
        StorageError: the disk is full; go on with resume.
    """
    live = dict(upstreams or {})
    run_dir = RunDir(config.out)
    if existing == "resume" and _is_whole(run_dir):
        run_dir = RunDir.create(config.out, config, existing)
        check_finished(run_dir, config, live)
        say(f"{config.out}: already finished")
        return run_dir
    suite, record = read_inputs(config, live)
    asked = with_questions(_judge(config, judge), suite)
    check_checkpoints(config, live)
    if identity := getattr(asked, "identity", None):
        record["judge"] = identity
    for spec in config.upstreams:
        if spec.url is not None and spec.name not in live and existing != "resume":
            api_upstream(spec, None)  # a missing key is told before anything is written
    with responses(config, live, asked) as store:
        run_dir = RunDir.create(config.out, config, existing)
        with run_dir.locked():
            record_inputs(run_dir, record)
            write_questions(run_dir, suite)
            for name, lacking in record["lacking"].items():
                count, where = sum(map(len, lacking.values())), run_dir.path / INPUTS
                say(f"{name}: {count} of {len(suite)} questions have no stored answer and stay unscored "
                     f"(listed in {where})")  # fmt: skip
            _Evaluation(config, run_dir, suite, asked, live, store).run()
    return run_dir


class _Evaluation:
    """One run on its way: what its steps share."""

    def __init__(
        self,
        config: EvalConfig,
        run_dir: RunDir,
        suite: Suite,
        judge: Judge,
        live: Mapping[str, Generator],
        responses: ResponseStore | None,
    ) -> None:
        self.config, self.run_dir, self.suite, self.judge, self.live = config, run_dir, suite, judge, live
        self.responses = responses
        self.loader = Loader(config=config, run_dir=run_dir, live=live, responses=responses)
        self.answers: dict[str, Store] = {}
        self.corrections: dict[tuple[str, str], Store] = {}
        self.verdicts: dict[tuple[str, str], Store] = {}
        self.odd: dict[str, answering.OddAnswers] = {}
        self.planted = Planted(config, run_dir, suite) if config.planted else None

    def run(self) -> None:
        with storage_errors(self.run_dir.path):
            (self.run_dir.path / "result.json").unlink(missing_ok=True)
            (self.run_dir.path / "verdicts").mkdir(exist_ok=True)
        with self._timed("answers"):
            for upstream in self.config.upstreams:
                self._answer(upstream)
        with self._timed("corrections"):
            methods = [spec for spec in self.config.correctors if spec.method is not None]
            for corrector in self.config.correctors:
                if corrector.method is None:
                    self._correct(corrector)
            for upstream in self.config.upstreams if methods else ():
                self._revise(upstream, methods)
                free_memory()
        if self.planted is not None:
            self.planted.prepare(self.answers)
        if self.config.batch_out is not None:
            self._write_batch(self.config.batch_out)
            return
        with self._timed("judging") as spent:
            try:
                run_sync(self._judge_all())
            finally:
                spent.update(judge_spent(self.judge))
        summarise(
            self.config,
            self.run_dir,
            self.suite,
            self.judge,
            answers=self.answers,
            corrections=self.corrections,
            verdicts=self.verdicts,
            planted=self.planted,
            odd=self.odd,
            failed={
                "answers": sum(len(s.failed) for s in self.answers.values()),
                "corrections": sum(len(s.failed) for s in self.corrections.values()),
                "verdicts": sum(len(s.failed) for s in self.verdicts.values()),
                **({"planted": self.planted.failed} if self.planted is not None else {}),
            },
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[dict[str, int]]:
        begin = time.monotonic()
        more: dict[str, int] = {}
        try:
            yield more
        finally:
            with self.run_dir.metrics() as metrics:
                metrics.write({"stage": stage, "seconds": round(time.monotonic() - begin, 3), **more})

    @contextmanager
    def _working(
        self, label: str, upstream: str, store: Store, total: int, corrector: str | None
    ) -> Iterator[Progress]:
        """Shows how a store fills up, and writes down how long that takes, also where it ends early."""
        begin, done = time.monotonic(), store.whole()
        with Progress(label, total, done) as progress:
            try:
                yield progress
            finally:
                row = {"corrector": corrector, "upstream": upstream, "answers": progress.done - done}
                with self.run_dir.metrics() as metrics:
                    metrics.write({**row, "seconds": round(time.monotonic() - begin, 3)})

    def _store(self, *parts: str) -> Store:
        return Store(self.run_dir.path.joinpath(*parts[:-1], f"{parts[-1]}.jsonl"), self.suite)

    def _answer(self, spec: UpstreamSpec) -> None:
        store = self.answers[spec.name] = self._store("answers", spec.name)
        try:
            if not store.missing():
                pass
            elif spec.answers is not None and spec.name not in self.live:
                answers = stored_answers(spec.answers, self.suite, partial=self.config.partial)
                answering.take_over(answers, store)
            else:
                self._ask(spec, store)
                free_memory()
            self.odd[spec.name] = answering.check_answers(spec.name, self.suite, store)
        finally:
            store.close()

    def _ask(self, spec: UpstreamSpec, store: Store) -> None:
        upstream, sampling = self.loader.upstream(spec), self.config.sampling.to_sampling()
        with self._working(f"{spec.name}: answering", spec.name, store, len(self.suite), None) as progress:
            run_sync(answering.ask(upstream, self.suite, sampling, store, progress))

    def _correct(self, spec: CorrectorSpec) -> None:
        stores = {u.name: self._store("corrections", spec.name, u.name) for u in self.config.upstreams}
        self.corrections |= {(spec.name, upstream): store for upstream, store in stores.items()}
        try:
            if spec.corrections is not None:
                for upstream, store in stores.items():
                    only = len(self.config.upstreams) == 1
                    texts = stored_corrections(spec.corrections, self.suite, upstream, only=only)
                    correcting.take_over(texts, self.answers[upstream], store)
            else:
                self._run_corrector(spec, stores)
                free_memory()
            for upstream, store in stores.items():
                correcting.check_corrections(spec.name, upstream, store)
        finally:
            for store in [*stores.values(), *self.answers.values()]:
                store.close()

    def _run_corrector(self, spec: CorrectorSpec, stores: Mapping[str, Store]) -> None:
        """All upstreams with one corrector, which is loaded where an answer is left to correct, and once."""
        aligner: Aligner | None = None
        done: list[tuple[correcting.Hashes, Store]] = []
        try:
            for upstream, store in stores.items():
                answers = self.answers[upstream]
                hashes = correcting.hash_answers(answers, len(self.suite))
                correcting.copy_same(hashes, store, done)
                done.append((hashes, store))
                if any(place in answers for place in store.missing()):
                    aligner = aligner or self.loader.aligner(spec)
                    label = f"{spec.name}: correcting {upstream}"
                    with self._working(label, upstream, store, answers.whole(), spec.name) as progress:
                        correcting.correct(aligner, self.suite, answers, store, progress)
        finally:
            if aligner is not None:
                aligner.close()

    def _revise(self, upstream: UpstreamSpec, specs: Sequence[CorrectorSpec]) -> None:
        """One upstream by all methods; it is loaded where an answer is left to revise, and once."""
        model: Generator | None = None
        answers, sampling = self.answers[upstream.name], self.config.sampling.to_sampling()
        for spec in specs:
            store = self.corrections[spec.name, upstream.name] = self._store("corrections", spec.name, upstream.name)
            try:
                if any(place in answers for place in store.missing()):
                    model = model or self.loader.upstream(upstream)
                    revise = Revise(model, load_method(str(spec.method)), seed=self.config.seed)
                    label = f"{spec.name}: revising {upstream.name}"
                    with self._working(label, upstream.name, store, answers.whole(), spec.name) as progress:
                        run_sync(revising.revise(
                            revise, self.suite, sampling, answers, store, progress, self.config.guards
                        ))  # fmt: skip
                correcting.check_corrections(spec.name, upstream.name, store)
            finally:
                store.close()
                answers.close()

    async def _judge_all(self) -> None:
        """All in one event loop, to which a judge's connections may be bound."""
        with closing(self._benches()) as benches:
            for bench in benches:
                left = bench.left()
                if left:
                    done = bench.verdicts.whole()
                    with Progress(f"{bench.corrector}: judging {bench.upstream}", done + left, done) as progress:
                        await bench.judge_all(progress)

    def _write_batch(self, path: Path) -> None:
        """The requests for all that is not judged yet."""
        if isinstance(self.judge, BatchJudge) and self.responses is not None:
            store = judge_store(self.judge, self.responses)
            with closing(self._benches()) as benches:
                files = write_requests(path, (a for bench in benches for a in bench.asks(self.judge)), store)
            for file, count in files.items():
                say(f"{file}: {count:,} requests")
            for file in left_over(path, len(files)):
                say(f"{file}: was there before, and holds none of these requests")

    def _benches(self) -> Generates[Bench]:
        """One after the other; the files of each are closed when the next is asked for."""
        for bench in self._all_benches():
            try:
                yield bench
            finally:
                for store in (bench.answers, bench.corrections, bench.verdicts):
                    store.close()

    def _all_benches(self) -> Iterator[Bench]:
        in_flight = self.config.judge.in_flight if self.config.judge else 8
        for corrector in self.config.correctors:
            for upstream in self.config.upstreams:
                key = (corrector.name, upstream.name)
                self.verdicts[key] = self._store("verdicts", *key)
                yield Bench(
                    judge=self.judge,
                    suite=self.suite,
                    corrector=corrector.name,
                    upstream=upstream.name,
                    seen=upstream.seen,
                    answers=self.answers[upstream.name],
                    corrections=self.corrections[key],
                    verdicts=self.verdicts[key],
                    in_flight=in_flight,
                )
        if self.planted is not None:
            yield self.planted.bench(self.judge, in_flight)


def _judge(config: EvalConfig, judge: Judge | None) -> Judge:
    if judge is not None:
        return check_judge(judge)
    if config.judge is None:
        raise ConfigError("the setting 'judge' is missing; name what makes the judge: judge: {call: module:callable}")
    return load_judge(config.judge)


def _is_whole(run_dir: RunDir) -> bool:
    """Finished, with nothing that failed."""
    result = run_dir.result()
    return result is not None and not result.get("failed")
