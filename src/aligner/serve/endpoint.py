"""Corrected: one request of OpenAI's endpoints to its corrected reply, whole or streamed."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Literal

from aligner.correct.remote import RemoteAligner, forwarding
from aligner.errors import ConfigError, RequestError
from aligner.serve import headers as h
from aligner.serve import wire
from aligner.serve.asgi import Exchange
from aligner.serve.asked import Asked
from aligner.serve.choice import Choice
from aligner.serve.formats import keeps_formats, wanted_format
from aligner.serve.heard import Heard
from aligner.serve.options import HEADER, Options
from aligner.serve.outcome import Outcome
from aligner.serve.policy import Policy
from aligner.serve.shadow import Shadow
from aligner.serve.stops import check_stops
from aligner.serve.stream import CorrectedStream
from aligner.serve.unknown import speaks_of_models, with_known
from aligner.serve.upstreams import Reply, Upstreams
from aligner.serve.wire import Answer, Json
from aligner.types import Corrector, Usage

Mode = Literal["correct", "shadow"]
_TELLS = b"x-aligner-corrected"
_MOST_ANSWERS = 1 << 12  # that one request is counted with: its upstream may not heed an `n` that is nonsense
_TRACE = (b"traceparent", b"tracestate")  # W3C Trace Context: whoever works for a request is seen in its trace
# They speak of the bytes of the upstream's body, and are wrong of another.
_OF_BODY = (b"etag", b"digest", b"content-digest", b"repr-digest", b"content-md5", b"last-modified", b"accept-ranges")


class Corrected:
    """Answers requests: the upstream is asked, its answer corrected and put in its place.

    Args:
        upstreams: who answers.
        policy: what is shown in an answer's place.
        choice: the correctors.
        share: of the requests that are corrected, drawn by `seed` and the request's body.
        own_keys: clients send keys of ours, which no upstream may see.
        sentences: show corrected sentences of streams while the upstream still writes.
        shadow: where corrections are recorded that nobody is shown; None shows them.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        policy: Policy,
        choice: Choice,
        *,
        share: float = 1.0,
        seed: int = 0,
        own_keys: bool = False,
        sentences: bool = False,
        shadow: Shadow | None = None,
    ) -> None:
        self.upstreams, self.policy, self.choice, self.shadow = upstreams, policy, choice, shadow
        self.share, self.seed, self.own_keys = share, seed, own_keys
        self.sentences = sentences
        self._links = AsyncExitStack()

    async def open(self) -> None:
        """Connect to a corrector behind an address, on the event loop that will use it."""
        corrector = self.choice.pick(Options())
        if isinstance(corrector, RemoteAligner):
            await self._links.enter_async_context(corrector.connected())

    async def close(self) -> None:
        """Finish what is recorded."""
        if self.shadow is not None:
            await self.shadow.close()
        await self._links.aclose()

    async def answer(self, kind: wire.Kind, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            RequestError: what the client is to be told.
            ClientLeft: it did not wait.
        """
        data = await exchange.body()
        given = {name.decode(): h.get(exchange.headers, name) for name in _TRACE}
        # Of other characters no trace is made, and the corrector's client would refuse to send them.
        traced = {name: value for name, value in given.items() if value is not None and value.isascii()}
        with forwarding(traced):
            await exchange.unless_left(self._answer(kind, data, exchange))

    async def _answer(self, kind: wire.Kind, data: bytes, exchange: Exchange) -> None:
        await self._reply(await self._read(kind, data, exchange), exchange)

    async def _read(self, kind: wire.Kind, data: bytes, exchange: Exchange) -> Asked:
        body = wire.read(data)
        wire.check(kind, body)
        options = Options()
        changed = "aligner" in body
        if changed:
            options = Options.read(body.pop("aligner"))
        elif (given := h.get(exchange.headers, HEADER)) is not None:
            options = Options.read_header(given)
        corrector = self.choice.pick(options)
        route = self.upstreams.route(body.get("model"))
        if route is None:
            raise await self._unknown(body.get("model"), exchange)
        untouched = "off" if options.off else None if self._drawn(data) else "share"
        wanted, unchecked = _wanted(body, corrector)
        question = wire.question(kind, body)
        untouched = untouched or unchecked or wire.why_not(kind, body, question)
        if untouched is None and kind != "completions" and not question[-1].content.strip():
            untouched = "no_question"  # an image, say, of which the corrector sees nothing
        if untouched is None:
            try:
                check_stops(body)
            except RequestError as e:
                if self.shadow is None:
                    raise
                untouched = e.code  # shadow mode stands in nobody's way
        if route.model is not None:
            body["model"], changed = route.model, True
        return Asked(
            kind=kind, body=body, data=wire.write(body) if changed else data, options=options,
            corrector=corrector, route=route, wanted=wanted, untouched=untouched,
        )  # fmt: skip

    def _drawn(self, data: bytes) -> bool:
        """Whether a request is among the corrected share: the same request always is, or never."""
        if self.share >= 1:
            return True
        digest = hashlib.sha256(b"%d:" % self.seed + data).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64

    async def _unknown(self, model: object, exchange: Exchange) -> RequestError:
        known = await self._known(exchange) or ", ".join(f"{name}/…" for name in self.upstreams.names)
        what = f"the model '{str(model)[:200]}' is not known" if model is not None else "'model' is missing"
        return RequestError(f"{what}; known: {known}", status=404, code="model_not_found")

    async def _known(self, exchange: Exchange) -> str:
        """The names of all models; "" where no upstream tells them."""
        try:
            found = await self.upstreams.models(exchange.headers, own_key=self.own_keys)
        except RequestError:
            return ""
        return ", ".join(str(m["id"]) for m in found[:100])

    async def _not_found(self, asked: Asked, exchange: Exchange, reply: Reply) -> None:
        """The upstream's own 404; one that knows no such model is followed by the models that there are."""
        data = await self.upstreams.whole(reply)
        packed = (h.get(reply.headers, b"content-encoding") or "identity") != "identity"
        body = with_known(data, await self._known(exchange)) if not packed and speaks_of_models(data) else None
        headers = told(reply, b"content-length", *(() if body is None else _OF_BODY))
        headers.append((_TELLS, b"false; reason=upstream_status"))
        await exchange.reply(reply.status, data if body is None else wire.write(body), headers)

    async def _reply(self, asked: Asked, exchange: Exchange) -> None:
        metrics, began = self.policy.metrics, perf_counter()
        if asked.untouched is None and self.shadow is None:
            self.policy.admit()
        async with self.upstreams.ask(
            asked.route.upstream, "POST", exchange.target, _as_json(exchange.headers), asked.data,
            own_key=self.own_keys, plain=asked.untouched is None,
        ) as reply:  # fmt: skip
            kind = h.get(reply.headers, b"content-type") or ""
            streamed = kind.partition(";")[0].strip().lower() == "text/event-stream"
            if reply.status == 404 and asked.untouched is None:
                await self._not_found(asked, exchange, reply)
                return
            if asked.untouched is not None or reply.status != 200:
                if asked.untouched is not None and reply.status == 200:
                    metrics.untouched(asked.untouched, min(wire.count(asked.kind, asked.body), _MOST_ANSWERS))
                await self._through(exchange, reply, asked.untouched or "upstream_status")
                return
            if self.shadow is not None:
                await self._watched(asked, exchange, reply, self.shadow, streamed, began)
                return
            if (h.get(reply.headers, b"content-encoding") or "identity") != "identity":
                raise RequestError("the upstream compressed its answer though it was asked not to", status=502,
                                   code="upstream_invalid")  # fmt: skip
            if streamed:
                self.policy.admit()
                await exchange.start(reply.status, told(reply, b"content-length", *_OF_BODY))
                await CorrectedStream(
                    asked, exchange, self.upstreams, self.policy, sentences=self.sentences, began=began
                ).send(reply)  # fmt: skip
                return
            data = await self.upstreams.whole(reply)
            status = reply.status
        seconds = perf_counter() - began
        metrics.upstream_seconds.observe(seconds)
        response = wire.read_reply(data)
        answers = asked.formatted(wire.answers(asked.kind, asked.body, response))
        outcomes = await self.policy.correct_all(answers, asked.corrector)
        changed = await _put_back(asked.options, response, answers, outcomes, seconds)
        headers = told(reply, b"content-length", *(_OF_BODY if changed else ()))
        headers.append((_TELLS, _told(outcomes)))
        await exchange.reply(status, wire.write(response) if changed else data, headers)

    async def _through(self, exchange: Exchange, reply: Reply, reason: str) -> None:
        """The upstream's own reply, byte by byte."""
        await exchange.start(reply.status, [*told(reply), (_TELLS, f"false; reason={reason}".encode())])
        async for piece in reply.pieces():
            await exchange.send(piece)
        await exchange.end()

    async def _watched(
        self, asked: Asked, exchange: Exchange, reply: Reply, shadow: Shadow, streamed: bool, began: float
    ) -> None:
        """The upstream's own reply, byte by byte; what would have become of its answers is recorded, if they can be
        read."""
        await exchange.start(reply.status, [*told(reply), (_TELLS, b"false; reason=shadow")])
        heard = Heard(asked, self.upstreams.answer_limit, streamed=streamed)
        unheard = wire.count(asked.kind, asked.body)
        try:
            async for piece in reply.pieces():
                heard.feed(piece)
                await exchange.send(piece)
            unheard = 0
            self.policy.metrics.upstream_seconds.observe(perf_counter() - began)
        finally:  # clients leave when they have the last answer, which may be before the upstream's end
            answers = heard.answers()
            shadow.record(asked.body, answers, asked.corrector, missing=unheard - len(answers))
        await exchange.end()


def _as_json(headers: h.Headers) -> h.Headers:
    """A request's headers, which call its body the JSON that it is; curl calls it a form, which servers refuse."""
    kind = (h.get(headers, b"content-type") or "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return headers
    return [*(pair for pair in headers if pair[0] != b"content-type"), (b"content-type", b"application/json")]


def told(reply: Reply, *without: bytes) -> h.Headers:
    """A reply's headers that pass on."""
    # Our server writes a date of its own.
    return h.passing(reply.headers, b"date", *without)


def _wanted(body: Json, corrector: Corrector) -> tuple[Json | None, str | None]:
    """The format that answers must keep to, or why they cannot be corrected within it."""
    try:
        wanted = wanted_format(body)
    except ConfigError:
        return None, "structured_output"
    return wanted, "structured_output" if wanted is not None and not keeps_formats(corrector) else None


def _told(outcomes: list[Outcome]) -> bytes:
    """The header's value: whether any answer is the corrector's, and why others are not."""
    reasons = list(dict.fromkeys(o.reason for o in outcomes if o.reason is not None))
    corrected = any(o.reason is None for o in outcomes)
    return (("true" if corrected else "false") + (f"; reason={','.join(reasons)}" if reasons else "")).encode()


async def _put_back(
    options: Options, response: Json, answers: list[Answer], outcomes: list[Outcome], seconds: float
) -> bool:
    """Put the outcomes in the answers' places; returns whether that changed the response at all."""
    changed = False
    spent = Usage()
    for answer, outcome in zip(answers, outcomes, strict=True):
        lost = answer.put(outcome.text)
        extension = await outcome.extension(options, lost, seconds)
        if extension is not None:
            answer.beside["aligner"] = extension
        spent += outcome.spent
        changed = changed or extension is not None or outcome.correction is not None
    if changed:
        wire.tell_usage(response, spent)
    return changed
