"""The service: its routes, and how they use the model's thread and the live sessions.

Input: a predictor and limits. Output: an ASGI application, to be run by uvicorn.
Does not depend on: the command line, sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from erc_llm import __version__
from erc_llm.errors import ModelError, UserError
from erc_llm.hosting.guard import Application, Guard
from erc_llm.hosting.worker import Busy, ModelWorker
from erc_llm.serving.limits import Limits
from erc_llm.serving.measures import CONTENT_TYPE_LATEST, Measures
from erc_llm.serving.messages import (
    Conversation,
    Health,
    LabelledConversation,
    LabelledLine,
    Line,
    Problem,
    Session,
    Start,
    labelled,
    problems,
)
from erc_llm.serving.sessions import NoSession, SessionRefused, Sessions

if TYPE_CHECKING:
    from erc_llm.predictor import Predictor

T = TypeVar("T")
_DESCRIPTION = "Emotion of every line of a conversation, with exact probabilities of all labels."
SessionName = Annotated[str, Path(description="Id of the live session.", max_length=64)]


class ClientGone(Exception):
    """The client has closed its connection, so nobody waits for the result."""


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """What the routes do.

    Args:
        predictor: Labels dialogues and begins live sessions.
        limits: What clients may send, and what is kept.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor, self.limits, self.measures = predictor, limits, Measures()
        self.worker = ModelWorker(predictor, limits.waiting, limits.batch_lines, self.measures.batch)
        self.sessions = Sessions(
            predictor.live, limits.sessions, limits.session_seconds, limits.lines, limits.cache_bytes
        )
        self.measures.watch("waiting", "Requests that wait for the model.", lambda: self.worker.waiting)
        self.measures.watch("sessions", "Live sessions.", lambda: len(self.sessions))
        self.measures.watch("cache_bytes", "Memory of the live sessions' caches.", lambda: self.sessions.cached_bytes)

    @property
    def run_id(self) -> str | None:
        """Id of the run; None for a base model alone."""
        return None if self.predictor.run is None else self.predictor.run.manifest.run_id

    def health(self) -> Health:
        """The state of the service."""
        return Health(
            status="ok" if self.worker.alive else "ending",
            run=self.run_id,
            base_model=self.predictor.config.model.base,
            labels=list(self.predictor.labels.names),
            sessions=len(self.sessions),
            waiting=self.worker.waiting,
        )

    async def label(self, conversation: Conversation, gone: Callable[[], Any]) -> LabelledConversation:
        """Label a dialogue."""
        if len(conversation.lines) > self.limits.lines:
            raise _Refusal(413, f"lines: found {len(conversation.lines)}, the most is {self.limits.lines}")
        for k, line in enumerate(conversation.lines):
            self._check(line, f"lines.{k}.text")
        found = await self._result(self.worker.label(conversation.dialogue()), gone)
        self.measures.lines(len(found))
        return LabelledConversation(run=self.run_id, lines=[labelled(line) for line in found])

    def start(self, beginning: Start) -> Session:
        """Begin a live session."""
        name = self.sessions.start(beginning.id)
        return self.session(name)

    def session(self, name: str) -> Session:
        """The state of a live session."""
        lines, seconds = self.sessions.state(name)
        return Session(session=name, lines=lines, ends_in=seconds)

    async def say(self, name: str, line: Line, gone: Callable[[], Any]) -> LabelledLine:
        """Label the next line of a live session."""
        self._check(line, "text")
        self.sessions.reserve(name)
        try:
            future = self.worker.call(lambda: self.sessions.say(name, line.speakers, line.text))
        except Busy:
            self.sessions.release(name)
            raise
        # A line that was cancelled was never said; a line that runs is said, whoever still waits for it.
        future.add_done_callback(lambda done: self.sessions.release(name) if done.cancelled() else None)
        number, found = await self._result(future, gone)
        self.measures.lines(1)
        return LabelledLine(number=number, **labelled(found).model_dump())

    def _check(self, line: Line, field: str) -> None:
        if len(line.text) > self.limits.characters:
            raise _Refusal(413, f"{field}: found {len(line.text)} characters, the most is {self.limits.characters}")

    async def _result(self, future: Future[T], gone: Callable[[], Any]) -> T:
        """The result of the model's thread, unless it takes too long or the client goes away; then it is cancelled."""
        result = asyncio.wrap_future(future)
        leaving = asyncio.ensure_future(gone())
        try:
            await asyncio.wait((result, leaving), timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if leaving.done():
                raise ClientGone
            raise _Refusal(503, f"no result after {self.limits.seconds:g} seconds; try again later")
        finally:
            leaving.cancel()
            future.cancel()  # at once; by way of `result` it would be a turn of the event loop later


def create_app(predictor: Predictor, limits: Limits | None = None, key: str | None = None) -> Application:
    """The service as an ASGI application.

    Args:
        predictor: From `erc_llm.load`.
        limits: What clients may send, and what is kept.
        key: Secret that clients must send; None: none, and only this machine may ask.
    """
    limits = limits or Limits()
    service = Service(predictor, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.worker.stop)

    refusals = _refusals(
        {
            401: "No key, or a wrong one.",
            413: "Too many bytes, lines or characters.",
            422: "The request is not what the schema says.",
            503: "Too many requests, or no result in time.",
        }
    )
    app = FastAPI(title="erc-llm", version=__version__, description=_DESCRIPTION, lifespan=lifespan, responses=refusals)
    _add_routes(app, service)
    _add_refusals(app)
    return Guard(app, key, limits.body_bytes, limits.body_seconds, service.measures.request)


def _add_routes(app: FastAPI, service: Service) -> None:
    none = _refusals({404: "There is no such session."})
    taken = _refusals({409: "The line before is in work, or the session is full."})
    full = _refusals({429: "Too many live sessions."})

    @app.post("/v1/label", summary="Label every line of a dialogue")
    async def label(conversation: Conversation, request: Request) -> LabelledConversation:
        return await service.label(conversation, _gone(request))

    @app.post("/v1/live", status_code=201, summary="Begin a live session", responses=full)
    async def start(beginning: Start) -> Session:
        return service.start(beginning)

    @app.post("/v1/live/{session}", summary="Say the next line, and get its label", responses=none | taken)
    async def say(session: SessionName, line: Line, request: Request) -> LabelledLine:
        return await service.say(session, line, _gone(request))

    @app.get("/v1/live/{session}", summary="The state of a live session", responses=none)
    async def state(session: SessionName) -> Session:
        return service.session(session)

    @app.delete("/v1/live/{session}", status_code=204, summary="End a live session", responses=none)
    async def end(session: SessionName) -> None:
        service.sessions.end(session)

    @app.get("/healthz", summary="State of the service; needs no key")
    async def health() -> Health:
        return service.health()

    @app.get("/metrics", summary="Measures for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.measures.text(), media_type=CONTENT_TYPE_LATEST)


def _refusals(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """What the schema says of answers with an error."""
    return {status: {"model": Problem, "description": meaning} for status, meaning in meanings.items()}


def _gone(request: Request) -> Callable[[], Any]:
    """A function that returns when the client has closed its connection."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait


def _add_refusals(app: FastAPI) -> None:
    def problem(status: int, message: str) -> JSONResponse:
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        return JSONResponse({"error": message}, status, headers)

    async def wrong(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return problem(422, problems(error.errors()))

    async def refused(_: Request, error: Exception) -> JSONResponse:
        return problem(getattr(error, "status", 500), str(error))

    async def unusable(_: Request, error: Exception) -> JSONResponse:
        return problem(422, str(error))

    async def none(_: Request, error: Exception) -> JSONResponse:
        return problem(404, str(error))

    async def busy(_: Request, error: Exception) -> JSONResponse:
        return problem(503, str(error))

    async def broken(_: Request, error: Exception) -> JSONResponse:
        return problem(500, f"internal error: {type(error).__name__}; the service's log has more")

    async def unknown(_: Request, error: Exception) -> JSONResponse:
        found = getattr(error, "detail", "Not Found")
        return problem(getattr(error, "status_code", 404), f"{found}; the requests that there are: /docs")

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(_Refusal, refused)
    app.add_exception_handler(SessionRefused, refused)
    app.add_exception_handler(UserError, unusable)
    app.add_exception_handler(NoSession, none)
    app.add_exception_handler(Busy, busy)
    app.add_exception_handler(ModelError, busy)  # too little GPU memory for this batch
    app.add_exception_handler(Exception, broken)
    app.add_exception_handler(404, unknown)
    app.add_exception_handler(405, unknown)
    app.add_exception_handler(ClientGone, gone)
