"""The page's server: its files, and what they ask for as JSON.

Input: what the page shows (`Shown`) and a way to load predictors. Output: an ASGI application, to be run by uvicorn.
Does not depend on: the command line, sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse

from erc_llm import __version__
from erc_llm.corpus import Corpus
from erc_llm.corpus.dialogues import Dialogue
from erc_llm.errors import CorpusError, RunError, UserError
from erc_llm.evaluation.page import page_style
from erc_llm.hosting.guard import Application, Guard
from erc_llm.hosting.worker import Busy, ModelWorker
from erc_llm.ui.conversations import Conversations, dialogue_of
from erc_llm.ui.messages import Conversation, Place, PromptQuestion, problems
from erc_llm.ui.prompts import prompt_of_line
from erc_llm.ui.systems import Load, Models, System, answers_of
from erc_llm.ui.tables import Filter, Tables, confidences, matching, row_of, scene_around, summary
from erc_llm.ui.training import Watcher

T = TypeVar("T")
_WAITING = 64  # requests that wait for the model; more are refused
_BODY_BYTES, _BODY_SECONDS = 20_000_000, 30.0
_DIALOGUES = 300  # of a corpus, listed at a time
_FILES = {"main.js", "dom.js", "lines.js", "conversation.js", "errors.js", "training.js", "ui.css"}
_KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
# The page loads nothing from elsewhere, and markup in a name or a line could do nothing even if it became markup.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# A report has a script of its own, which must not reach this server.
_REPORT_HEADERS = {**_HEADERS, "Content-Security-Policy": "sandbox allow-scripts; frame-ancestors 'none'"}


@dataclass(frozen=True)
class Shown:
    """What the page shows.

    Attributes:
        systems: Systems to ask.
        corpora: Corpora to open conversations from.
        tables: Predictions tables.
        watched: Runs, or folders of runs, to follow.
    """

    systems: Sequence[System] = ()
    corpora: Sequence[Corpus] = ()
    tables: Sequence[Path] = ()
    watched: Sequence[Path] = ()


class Pages:
    """What the routes do.

    Args:
        shown: What the page shows.
        load: Loads the predictor of a system.
    """

    def __init__(self, shown: Shown, load: Load) -> None:
        self.shown, self.tables, self.watcher = shown, Tables(shown.tables), Watcher(shown.watched)
        self.models, self.conversations = Models(shown.systems, load), Conversations()
        self.worker = ModelWorker(None, _WAITING)
        if shown.systems:
            self.worker.call(lambda: self.models.predictor(0))  # loaded while the user still reads; errors come later

    def start(self) -> dict[str, Any]:
        """What there is to choose from."""
        systems = [
            {
                "name": system.name,
                "words": system.words,
                "labels": system.labels,
                "usual": system.usual,
                "ways": [
                    {"name": way.name, "words": way.words, "calibrated": bool(number)}
                    for number, way in enumerate(system.ways)
                ],
            }
            for system in self.shown.systems
        ]
        corpora = [
            {"name": corpus.name, "splits": {name: len(found) for name, found in corpus.splits.items()}}
            for corpus in self.shown.corpora
        ]
        tables = [str(path) for path in self.shown.tables]
        watched = [str(path) for path in self.shown.watched]
        return {"version": __version__, "systems": systems, "corpora": corpora, "tables": tables, "watched": watched}

    def dialogues(self, corpus: int, split: str, contains: str) -> dict[str, Any]:
        """Ids and sizes of the dialogues of a split whose id contains a text."""
        found = [d for d in self._corpus(corpus).split(split) if contains.casefold() in d.id.casefold()]
        return {"found": len(found), "dialogues": [[d.id, len(d.utterances)] for d in found[:_DIALOGUES]]}

    def dialogue(self, place: Place) -> dict[str, Any]:
        """The lines of a dialogue, with their gold labels."""
        found = self._dialogue(place)
        lines = [{"speakers": u.speakers, "text": u.text, "gold": u.label} for u in found.utterances]
        return {"id": found.id, "lines": lines}

    async def labels(self, asked: Conversation) -> dict[str, Any]:
        """What every way of a system says about each line."""
        system, scene = self._system(asked.system), self._scene(asked.place)

        def label() -> Sequence[Any]:
            predictor = self.models.predictor(asked.system)
            return self.conversations.labels(asked.system, predictor, asked.spoken, scene)

        found = await self._by_model(label)
        return {"lines": [None if line is None else asdict(answers_of(system, line)) for line in found]}

    async def prompt(self, asked: PromptQuestion) -> dict[str, Any]:
        """The prompt for a line, and the profiles in it."""
        self._system(asked.system)
        scene = self._scene(asked.place)

        def show() -> dict[str, Any]:
            predictor = self.models.predictor(asked.system)
            shown = prompt_of_line(predictor.prompter, dialogue_of(asked.spoken, scene), asked.position)
            return asdict(shown) | {"profiles": shown.profiles, "states": predictor.uses_state}

        return await self._by_model(show)

    def table_rows(self, number: int, wanted: Filter, offset: int, count: int) -> dict[str, Any]:
        """The rows that a filter leaves: their numbers, and some of them whole."""
        table = self.tables.table(number)
        rows = matching(table, wanted)
        shown = [asdict(row_of(table, row)) for row in rows[offset : offset + count].tolist()]
        return {"found": len(rows), "offset": offset, "rows": shown}

    def table_scene(self, number: int, row: int) -> dict[str, Any]:
        """A row of a table in its scene."""
        table = self.tables.table(number)
        sure = confidences(table)[row] if 0 <= row < len(table) else None
        return {"row": row, "confidence": sure, "lines": [asdict(found) for found in scene_around(table, row)]}

    async def _by_model(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self.worker.call(work))

    def _system(self, number: int) -> System:
        if number >= len(self.shown.systems):
            raise RunError(f"system {number}: found {len(self.shown.systems)} systems; reload the page")
        return self.shown.systems[number]

    def _corpus(self, number: int) -> Corpus:
        if not 0 <= number < len(self.shown.corpora):
            raise CorpusError(f"corpus {number}: found {len(self.shown.corpora)} corpora; reload the page")
        return self.shown.corpora[number]

    def _scene(self, place: Place | None) -> Dialogue | None:
        return None if place is None else self._dialogue(place)

    def _dialogue(self, place: Place) -> Dialogue:
        corpus = self._corpus(place.corpus)
        for dialogue in corpus.dialogues():
            if dialogue.id == place.dialogue:
                return dialogue
        raise CorpusError(f"no dialogue '{place.dialogue}' in corpus '{corpus.name}'; reload the page")


def create_app(shown: Shown, load: Load) -> Application:
    """The page as an ASGI application; it answers only to this machine, and only to its own page in a browser.

    Args:
        shown: What the page shows.
        load: Loads the predictor of a source with its calibration, without a decision rule; see `Models`.
    """
    pages = Pages(shown, load)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(pages.worker.stop)

    app = FastAPI(lifespan=lifespan, openapi_url=None)  # nor the pages on the schema, which load scripts
    _add_files(app)
    _add_conversations(app, pages)
    _add_tables(app, pages)
    _add_training(app, pages)
    _add_refusals(app)
    return Guard(app, None, _BODY_BYTES, _BODY_SECONDS, lambda *_: None, own_page=True)


def _add_files(app: FastAPI) -> None:
    folder = files("erc_llm.ui") / "static"

    def answer(name: str) -> Response:
        kind = _KINDS[Path(name).suffix]
        return Response((folder / name).read_bytes(), media_type=f"{kind}; charset=utf-8", headers=_HEADERS)

    @app.get("/")
    def page() -> Response:
        return answer("index.html")

    @app.get("/page.css")
    def style() -> Response:
        return Response(page_style(), media_type="text/css; charset=utf-8", headers=_HEADERS)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        return answer(name) if name in _FILES else JSONResponse({"error": "no such file"}, 404, _HEADERS)


def _add_conversations(app: FastAPI, pages: Pages) -> None:
    @app.get("/api/start")
    def start() -> JSONResponse:
        return _json(pages.start())

    @app.get("/api/corpora/{corpus}/dialogues")
    def dialogues(corpus: int, split: str, contains: str = "") -> JSONResponse:
        return _json(pages.dialogues(corpus, split, contains))

    @app.post("/api/dialogue")
    def dialogue(place: Place) -> JSONResponse:
        return _json(pages.dialogue(place))

    @app.post("/api/labels")
    async def labels(asked: Conversation) -> JSONResponse:
        return _json(await pages.labels(asked))

    @app.post("/api/prompt")
    async def prompt(asked: PromptQuestion) -> JSONResponse:
        return _json(await pages.prompt(asked))


def _add_tables(app: FastAPI, pages: Pages) -> None:
    @app.get("/api/tables/{number}")
    def table(number: int) -> JSONResponse:
        return _json(asdict(summary(pages.tables.table(number))))

    @app.get("/api/tables/{number}/rows")
    def rows(
        number: int,
        wrong: bool = True,
        gold: str | None = None,
        answer: str | None = None,
        speaker: str | None = None,
        least: Annotated[float, Query(ge=0, le=1)] = 0.0,
        most: Annotated[float, Query(ge=0, le=1)] = 1.0,
        order: Literal["confidence", "place"] = "confidence",
        offset: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=200)] = 25,
    ) -> JSONResponse:
        wanted = Filter(wrong, gold, answer, speaker, least, most, order)
        return _json(pages.table_rows(number, wanted, offset, count))

    @app.get("/api/tables/{number}/scenes/{row}")
    def scene(number: int, row: int) -> JSONResponse:
        return _json(pages.table_scene(number, row))


def _add_training(app: FastAPI, pages: Pages) -> None:
    @app.get("/api/training")
    def training() -> JSONResponse:
        return _json({"runs": [asdict(run) for run in pages.watcher.runs()]})

    @app.get("/api/training/{name}")
    def curves(name: str) -> JSONResponse:
        loss, scores = pages.watcher.curves(name)
        return _json({"loss": loss, "scores": scores})

    @app.get("/reports/{name}")
    def report(name: str) -> Response:
        return FileResponse(pages.watcher.report(name), media_type="text/html", headers=_REPORT_HEADERS)


def _json(content: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, _HEADERS)


def _add_refusals(app: FastAPI) -> None:
    async def wrong(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _json({"error": problems(error.errors())}, 422)

    async def unusable(_: Request, error: Exception) -> JSONResponse:
        return _json({"error": str(error)}, 422)

    async def busy(_: Request, error: Exception) -> JSONResponse:
        return _json({"error": str(error)}, 503)

    async def broken(_: Request, error: Exception) -> JSONResponse:
        message = f"internal error: {type(error).__name__}: {error}; the terminal that runs erc-llm ui has more"
        return _json({"error": message}, 500)

    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(UserError, unusable)
    app.add_exception_handler(Busy, busy)
    app.add_exception_handler(Exception, broken)
