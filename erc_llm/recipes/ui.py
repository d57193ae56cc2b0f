"""What `erc-llm ui` shows: systems, corpora, tables and training runs, opened and checked before the page is up.

Input: `UiOptions`. Output: the sources, the corpora and the files; a function that loads predictors.
Does not depend on: HTTP, the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from erc_llm.calibration.store import CALIBRATION
from erc_llm.config import CorpusConfig, RunConfig
from erc_llm.corpus import EMORYNLP, Corpus
from erc_llm.errors import RunError, UserError
from erc_llm.recipes.data import SAMPLE, open_corpus, open_whole
from erc_llm.recipes.predict import PredictOptions, open_live
from erc_llm.runs.directory import CONFIG
from erc_llm.runs.manifest import MANIFEST, read_manifest
from erc_llm.runs.opened import open_run

if TYPE_CHECKING:
    from erc_llm.predictor import Predictor

RUNS, ADAPTERS = Path("runs"), Path("adapters")


@dataclass(frozen=True, kw_only=True)
class UiOptions:
    """What is named on the command line.

    Attributes:
        sources: Runs, exports, configurations; none: what lies in `runs` and `adapters`.
        corpus: Corpus to open conversations from, which profiles are also written from; `none`: nobody has a past.
        heal_from: Original EmoryNLP files, from which lines missing in the `aligned` corpus are restored.
        tables: Predictions tables.
        watch: Runs, or folders of runs, to follow; none: `runs`, where it exists.
        overrides: See `erc_llm.predictor.load`.
    """

    sources: tuple[str, ...] = ()
    corpus: str | None = None
    heal_from: str | None = None
    tables: tuple[Path, ...] = ()
    watch: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What there is to show.

    Attributes:
        sources: Sources that can be asked.
        corpora: Corpora to open conversations from.
        tables: Predictions tables.
        watched: Runs, or folders of runs, to follow.
    """

    sources: tuple[str, ...]
    corpora: tuple[Corpus, ...]
    tables: tuple[Path, ...]
    watched: tuple[Path, ...]


def find_shown(options: UiOptions) -> Found:
    """What there is to show; an unfinished run is followed and not asked.

    Raises:
        UserError: A source, corpus, table or folder cannot be opened, or there is nothing to show.
    """
    for path in (*options.tables, *options.watch):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; expected a predictions table, or a run to follow")
    named = options.sources or tuple(str(folder) for folder in _lying_around())
    unfinished = [source for source in named if _is_unfinished(Path(source))]
    sources = tuple(source for source in named if source not in unfinished)
    folders = [Path(source) for source in named if Path(source).is_dir()]
    default = (RUNS,) if RUNS.is_dir() and not options.watch else ()
    watched = tuple(dict.fromkeys((*folders, *options.watch, *default)))
    tables = tuple(
        dict.fromkeys((*options.tables, *(t for folder in folders for t in sorted(folder.glob("*.parquet")))))
    )
    if not sources and not tables and not watched:
        raise UserError(
            "nothing to show: found no run in `runs` and no export in `adapters`; name a run, an export or a "
            "configuration: erc-llm ui smollm2-135m"
        )
    return Found(sources, _corpora(options, sources), tables, watched)


def loader(options: UiOptions, console: Console) -> Callable[[str, Predictor | None], Predictor]:
    """A function that loads the predictor of a source, with its calibration and without a decision rule."""

    def load(source: str, beside: Predictor | None) -> Predictor:
        run = open_run(source, options.overrides).run
        calibrated = run is not None and (run.folder / CALIBRATION).is_file()
        chosen = PredictOptions(
            source=source,
            corpus=options.corpus,
            heal_from=options.heal_from,
            calibration="run" if calibrated else "none",
            decide="probable",
            overrides=options.overrides,
        )
        return open_live(chosen, console, beside)

    return load


def _lying_around() -> list[Path]:
    return [f for root in (RUNS, ADAPTERS) if root.is_dir() for f in sorted(root.iterdir()) if _is_adapter(f)]


def _is_adapter(folder: Path) -> bool:
    if not (folder / MANIFEST).is_file() or not (folder / CONFIG).is_file():
        return False
    try:
        return read_manifest(folder).kind == "adapter"
    except RunError:
        return False  # damaged, or of another version: named on the command line it is reported


def _is_unfinished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and not read_manifest(folder).finished


def _corpora(options: UiOptions, sources: Sequence[str]) -> tuple[Corpus, ...]:
    """The sample corpus and the one that is named, with the labels of the first source that can be asked."""
    sample = open_corpus(CorpusConfig(), EMORYNLP, cut_selection=False)
    if options.corpus in (None, "none", SAMPLE):
        return (sample,)
    config = open_run(sources[0], options.overrides).config if sources else RunConfig(name="ui")
    return open_whole(config, options.corpus, options.heal_from), sample
