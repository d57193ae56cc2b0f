"""The predictions table: the one seam between models and evidence.

Goes in: the dialogues of a split and a model's answers, or a file. Comes out: a checked, frozen `Predictions`, or a
Parquet or JSONL file. Every system writes this table and every evaluation reads only this table, so nothing here knows
prompts, models or figures. A table that breaks its own rules (a doubled target, a label outside the set, probabilities
that do not sum to one) cannot be built, whether it comes from a model or from a file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.speakers import GENERIC_NAMES, identity
from erc_llm.errors import PredictionsError

FORMAT_VERSION = 1
REQUIRED = ("dialogue_id", "utterance_id", "predicted")

Texts = tuple[str, ...]
NullableTexts = tuple[str | None, ...]

_KEY = b"erc_llm"  # of the metadata in the Parquet schema
_TOLERANCE = 1e-3  # of the sum of probabilities
_KINDS: Mapping[str, str] = {
    "dialogue_id": "text",
    "utterance_id": "text",
    "position": "integer",
    "episode": "text",
    "scene_order": "integer",
    "speakers": "texts",
    "text": "text",
    "gold": "text",
    "previous_gold_same_speaker": "text",
    "history_length": "integer",
    "first_seen": "flag",
    "predicted": "text",
    "invalid": "flag",
    "raw_answer": "text",
    "log_likelihoods": "numbers",
    "probabilities": "numbers",
    "label_mass": "number",
}
_NULLABLE = ("episode", "gold", "previous_gold_same_speaker", "predicted", "raw_answer")  # text that may lack in a row


@dataclass(frozen=True)
class Answer:
    """What a system said about one target.

    Attributes:
        predicted: A label name; None only for an invalid answer.
        invalid: The answer was no label; it counts as wrong whatever `predicted` falls back to.
        raw_answer: What a generating model wrote.
        log_likelihoods: ln p(label and its end tokens) for each label; None where the system has none.
        probabilities: Normalised over the labels; None where the system has none.
        label_mass: Total probability of the labels among all answers, before normalisation.
    """

    predicted: str | None
    invalid: bool = False
    raw_answer: str | None = None
    log_likelihoods: Sequence[float] | None = None
    probabilities: Sequence[float] | None = None
    label_mass: float | None = None


@dataclass(frozen=True, kw_only=True)
class PredictionsInfo:
    """Where a table comes from; stored with it.

    Attributes:
        system: Name of what answered, for people; such as `smollm2-135m` or `all-Neutral`.
        labels: Label names; the order of the lists `log_likelihoods` and `probabilities`.
        corpus_sha256: Hash of the corpus's content; with dialogue and utterance id the key of a row.
        corpus_name: What the user calls the corpus.
        corpus_version: `original`, `aligned`, `compm` or `own`.
        split: The split the rows are from.
        healed: Whether the corpus was gap-healed.
        run_id: The training run, if there was one.
        seed: Of the run.
        context: `past`, `full`, or None for a system that reads no dialogue.
        template_sha256: Hash of the prompt template.
        base_model: Name of the base model.
        base_model_sha256: Hash of its weights.
        config_sha256: Hash of the run's resolved configuration.
        profile: Kind of speaker profile in the prompt; `none` without.
        retrieval: Source of retrieved evidence; `none` without.
        prior: Prior applied to the label distribution, in words; None if none was.
        calibration: Calibration applied, in words; None if none was.
        train_shares: Share of each label in train, in the order of `labels`; what a prior-random reference draws from.
        created_with: Package name to version.
        format_version: Of the table.
    """

    system: str
    labels: Texts
    corpus_sha256: str
    corpus_name: str
    corpus_version: str
    split: str
    healed: bool = False
    run_id: str | None = None
    seed: int | None = None
    context: Literal["past", "full"] | None = None
    template_sha256: str | None = None
    base_model: str | None = None
    base_model_sha256: str | None = None
    config_sha256: str | None = None
    profile: str = "none"
    retrieval: str = "none"
    prior: str | None = None
    calibration: str | None = None
    train_shares: tuple[float, ...] | None = None
    created_with: Mapping[str, str] = field(default_factory=dict, hash=False)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "created_with", MappingProxyType(dict(self.created_with)))
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels) or not all(self.labels):
            raise PredictionsError(f"labels: expected at least two different names, found {list(self.labels)}")
        if self.train_shares is not None and len(self.train_shares) != len(self.labels):
            raise PredictionsError(f"train_shares: expected {len(self.labels)} shares, found {len(self.train_shares)}")

    def as_dict(self) -> dict[str, Any]:
        """The metadata as plain values that JSON can hold."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: dict(v) if isinstance(v, Mapping) else v for name, v in values.items()}


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row per target; columns of equal length, None where the table lacks an optional one.

    Build it with `from_corpus` or `from_columns`. Lists are in the order of `info.labels`; arrays are read-only.

    Attributes:
        info: Where the table comes from.
        dialogue_id: Scene of the target.
        utterance_id: The target within its scene.
        predicted: Label name; None only where invalid.
        position: Index of the utterance in its dialogue, from 0.
        episode: Name of the episode.
        scene_order: Index of the dialogue in its split, from 0.
        speakers: Global identities of who speaks.
        text: What was said.
        gold: Gold label.
        previous_gold_same_speaker: Gold label of the first speaker's previous utterance in this dialogue.
        history_length: Lines of the first speaker in strictly earlier dialogues of the whole corpus.
        first_seen: Whether `history_length` is 0.
        invalid: Whether the answer was no label.
        raw_answer: What a generating model wrote.
        log_likelihoods: (rows, labels) in nats; a row of NaN where a system has none.
        probabilities: (rows, labels), rows sum to 1; a row of NaN where a system has none.
        label_mass: (rows,) total probability of the labels before normalisation; NaN where unknown.
    """

    info: PredictionsInfo
    dialogue_id: Texts
    utterance_id: Texts
    predicted: NullableTexts
    position: NDArray[np.int64] | None = None
    episode: NullableTexts | None = None
    scene_order: NDArray[np.int64] | None = None
    speakers: tuple[Texts, ...] | None = None
    text: Texts | None = None
    gold: NullableTexts | None = None
    previous_gold_same_speaker: NullableTexts | None = None
    history_length: NDArray[np.int64] | None = None
    first_seen: NDArray[np.bool_] | None = None
    invalid: NDArray[np.bool_] | None = None
    raw_answer: NullableTexts | None = None
    log_likelihoods: NDArray[np.float64] | None = None
    probabilities: NDArray[np.float64] | None = None
    label_mass: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check_lengths(self)
        _check_keys(self)
        _check_labels(self)
        _check_distributions(self)

    def __len__(self) -> int:
        return len(self.dialogue_id)

    @property
    def missing(self) -> Texts:
        """Names of the optional columns this table lacks."""
        return tuple(name for name in _KINDS if getattr(self, name) is None)

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """(dialogue id, utterance id) of each row."""
        return tuple(zip(self.dialogue_id, self.utterance_id, strict=True))

    @cached_property
    def gold_index(self) -> NDArray[np.int64]:
        """(rows,) index of the gold label, -1 where there is none."""
        return self._indices(self.gold or (None,) * len(self))

    @cached_property
    def predicted_index(self) -> NDArray[np.int64]:
        """(rows,) index of the predicted label, -1 where the answer is invalid."""
        indices = self._indices(self.predicted)
        return indices if self.invalid is None else np.where(self.invalid, -1, indices)

    @cached_property
    def dialogue_index(self) -> NDArray[np.int64]:
        """(rows,) number of the row's dialogue, in order of appearance."""
        order = {name: i for i, name in enumerate(dict.fromkeys(self.dialogue_id))}
        return np.array([order[name] for name in self.dialogue_id], dtype=np.int64)

    def _indices(self, names: NullableTexts) -> NDArray[np.int64]:
        order: dict[str | None, int] = {name: i for i, name in enumerate(self.info.labels)}
        return np.array([order.get(name, -1) for name in names], dtype=np.int64)

    def columns(self) -> dict[str, list[Any]]:
        """The columns it has, as lists of plain values with None for null; `from_columns` takes them back."""
        present = {name: getattr(self, name) for name in _KINDS}
        return {name: _plain(_KINDS[name], values) for name, values in present.items() if values is not None}

    @classmethod
    def from_columns(cls, info: PredictionsInfo, columns: Mapping[str, Sequence[Any] | None]) -> Predictions:
        """Build a table from plain columns; unknown names are ignored, a column of nothing but None is missing.

        Raises:
            PredictionsError: A required column is missing, or a value breaks the rules of its column.
        """
        lacking = [name for name in REQUIRED if columns.get(name) is None]
        if lacking:
            raise PredictionsError(f"no column {', '.join(lacking)}; every table needs {', '.join(REQUIRED)}")
        built: dict[str, Any] = {}
        for name in _KINDS:
            values = columns.get(name)
            if values is None or (name not in REQUIRED and all(v is None for v in values)):
                continue
            built[name] = _column(name, values, len(info.labels))
        return cls(info, **built)

    @classmethod
    def from_corpus(
        cls,
        info: PredictionsInfo,
        dialogues: Iterable[Dialogue],
        answers: Mapping[tuple[str, str], Answer],
        history: Iterable[Dialogue] | None = None,
        generic: Collection[str] = GENERIC_NAMES,
    ) -> Predictions:
        """Join a model's answers with what the corpus knows about their targets.

        Args:
            info: Where the table comes from.
            dialogues: Those that were predicted, in split order; it is the order of the rows.
            answers: (dialogue id, utterance id) to answer, exactly one for every target of `dialogues`.
            history: All dialogues of the whole corpus, from which `history_length` and `first_seen` are counted;
                without it these two columns are missing.
            generic: Names that stand for somebody else in every episode; give `corpus.generic`.

        Raises:
            PredictionsError: A target without an answer, an answer without a target, or a value that breaks a rule.
        """
        spoken = None if history is None else history_lengths(history, generic)
        rows = [
            _corpus_columns(dialogue, position, order, spoken)
            for order, dialogue in enumerate(dialogues)
            for position in dialogue.targets
        ]
        keys = [(row["dialogue_id"], row["utterance_id"]) for row in rows]
        _check_answered(keys, answers)
        for row, key in zip(rows, keys, strict=True):
            row |= {f.name: getattr(answers[key], f.name) for f in fields(Answer)}
        return cls.from_columns(info, {name: [row[name] for row in rows] for name in _KINDS})


def history_lengths(
    dialogues: Iterable[Dialogue], generic: Collection[str] = GENERIC_NAMES
) -> dict[Dialogue, dict[str, int]]:
    """For each dialogue and each of its speakers: how many lines that person had in strictly earlier dialogues.

    Dialogues are put in time order; where one has no time, all keep the order they are given in. Dialogues of the same
    time do not count for each other. A line with several speakers counts for each of them, an empty line for nobody.
    Who a generic name stands for is told by `erc_llm.corpus.speakers.identity`.
    """
    given = list(dialogues)
    timed = all(d.time is not None for d in given)
    moments: list[tuple[Any, Dialogue]] = [(d.time if timed else i, d) for i, d in enumerate(given)]
    moments.sort(key=lambda moment: moment[0])
    spoken: Counter[str] = Counter()
    lengths: dict[Dialogue, dict[str, int]] = {}
    for _, group in groupby(moments, key=lambda moment: moment[0]):
        scenes = [dialogue for _, dialogue in group]
        for d in scenes:
            lengths[d] = {s: spoken[identity(s, d, generic)] for u in d.utterances for s in u.speakers}
        for d in scenes:
            spoken.update(identity(s, d, generic) for u in d.utterances if u.text.strip() for s in u.speakers)
    return lengths


def write_predictions(predictions: Predictions, path: Path | str) -> None:
    """Write a table: JSONL if the name ends in `.jsonl`, Parquet otherwise. Missing columns are left out.

    JSONL starts with a line `{"info": metadata, "rows": number of rows}`; each further line is a row. Missing folders
    are made. The file appears under its name only when it is complete.

    Raises:
        PredictionsError: The file cannot be written, for example because no space is left.
    """
    path = Path(path)
    write = _write_jsonl if path.suffix.lower() == ".jsonl" else _write_parquet
    _write_whole(path, lambda file: write(predictions, file))


def read_predictions(path: Path | str) -> Predictions:
    """Read a table that `write_predictions` wrote; the content tells which format it has.

    Optional columns that are not there become None and are listed in `Predictions.missing`.

    Raises:
        PredictionsError: No such file, not a predictions table, cut off, of another format version, without a needed
            column, or with values that break a rule. The message names the file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PredictionsError(f"{path}: no such file; `erc-llm predict` writes predictions tables") from None
    except OSError as error:
        raise PredictionsError(f"{path}: cannot be read: {error.strerror or error}") from None
    read = _read_jsonl if content.lstrip()[:1] == b"{" else _read_parquet
    try:
        info, columns = read(content)
        return Predictions.from_columns(info, columns)
    except PredictionsError as error:
        raise PredictionsError(f"{path}: {error}") from error


def _corpus_columns(
    dialogue: Dialogue, position: int, order: int, spoken: Mapping[Dialogue, Mapping[str, int]] | None
) -> dict[str, Any]:
    utterance = dialogue.utterances[position]
    speaker = utterance.speakers[0] if utterance.speakers else ""
    if spoken is not None and dialogue not in spoken:
        raise PredictionsError(f"dialogue '{dialogue.id}' is not among those given as history; give the whole corpus")
    length = None if spoken is None else spoken[dialogue].get(speaker, 0)
    before = reversed(dialogue.utterances[:position])
    return {
        "dialogue_id": dialogue.id,
        "utterance_id": utterance.id,
        "position": position,
        "episode": dialogue.episode_id,
        "scene_order": order,
        "speakers": utterance.speakers,
        "text": utterance.text,
        "gold": utterance.label,
        "previous_gold_same_speaker": next((u.label for u in before if speaker in u.speakers), None),
        "history_length": length,
        "first_seen": None if length is None else length == 0,
    }


def _check_answered(keys: Sequence[tuple[str, str]], answers: Mapping[tuple[str, str], Answer]) -> None:
    unanswered = [key for key in keys if key not in answers]
    if unanswered:
        raise PredictionsError(f"{len(unanswered)} of {len(keys)} targets have no answer, the first is {unanswered[0]}")
    stray = sorted(set(answers) - set(keys))
    if stray:
        raise PredictionsError(f"{len(stray)} answers belong to no target of these dialogues, the first is {stray[0]}")


def _check_lengths(table: Predictions) -> None:
    for name in _KINDS:
        values = getattr(table, name)
        if values is not None and len(values) != len(table.dialogue_id):
            raise PredictionsError(f"column '{name}' has {len(values)} rows, 'dialogue_id' has {len(table)}")


def _check_keys(table: Predictions) -> None:
    key, times = next(iter(Counter(table.keys).most_common(1)), (None, 1))
    if times > 1:
        raise PredictionsError(f"target {key} stands in {times} rows; a table has one row per target")


def _check_labels(table: Predictions) -> None:
    known = {None, *table.info.labels}
    for name in ("predicted", "gold", "previous_gold_same_speaker"):
        for i, label in enumerate(getattr(table, name) or ()):
            if label not in known:
                expected = ", ".join(table.info.labels)
                raise PredictionsError(f"column '{name}', row {i + 1}: '{label}' is not among the labels {expected}")
    for i, label in enumerate(table.predicted):
        if label is None and not (table.invalid is None or table.invalid[i]):
            raise PredictionsError(f"column 'predicted', row {i + 1}: no label, yet not marked invalid")


def _check_distributions(table: Predictions) -> None:
    shape = (len(table), len(table.info.labels))
    for name in ("log_likelihoods", "probabilities"):
        values = getattr(table, name)
        if values is not None and values.shape != shape:
            raise PredictionsError(f"column '{name}' has shape {values.shape}, expected (rows, labels) = {shape}")
    if table.probabilities is None:
        return
    sums, present = table.probabilities.sum(axis=1), ~np.isnan(table.probabilities).all(axis=1)
    negative = np.any(table.probabilities < 0, axis=1)
    wrong = np.flatnonzero(present & (negative | ~(np.abs(sums - 1) <= _TOLERANCE)))
    if len(wrong):
        i = int(wrong[0])
        found = "a negative value" if negative[i] else f"a sum of {sums[i]:.6g}"
        raise PredictionsError(f"column 'probabilities', row {i + 1}: expected values that sum to 1, found {found}")


def _column(name: str, values: Sequence[Any], n_labels: int) -> Any:
    """Check plain values of one column and give them their final type."""
    kind = _KINDS[name]
    convert: Callable[[Any], Any] = {
        "text": _as_text,
        "texts": _as_texts,
        "integer": _as_integer,
        "flag": _as_flag,
        "number": _as_number,
        "numbers": lambda v: _as_numbers(v, n_labels),
    }[kind]
    null = {"number": np.nan, "numbers": [np.nan] * n_labels}.get(kind)
    converted = []
    for i, value in enumerate(values):
        if value is None and (null is not None or name in _NULLABLE):
            converted.append(null)
            continue
        try:
            converted.append(convert(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise PredictionsError(f"column '{name}', row {i + 1}: {error}") from None
    if kind in ("text", "texts"):
        return tuple(converted)
    dtype: type = {"integer": np.int64, "flag": np.bool_}.get(kind, np.float64)
    shape = (-1, n_labels) if kind == "numbers" else (-1,)
    array: NDArray[Any] = np.array(converted, dtype=dtype).reshape(shape)
    array.setflags(write=False)
    return array


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{value!r} is not valid Unicode") from None
    return value


def _as_texts(values: object) -> Texts:
    if not isinstance(values, list | tuple):
        raise ValueError(f"expected a list of texts, found {values!r}")
    return tuple(_as_text(value) for value in values)


def _as_integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not -(2**63) <= value < 2**63:
        raise ValueError(f"expected a whole number of 64 bits, found {value!r}")
    return int(value)


def _as_flag(value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"expected true or false, found {value!r}")
    return bool(value)


def _as_number(value: object) -> float:
    number = float(value) if isinstance(value, int | float | np.integer | np.floating) else np.nan
    if isinstance(value, bool) or not number < np.inf:  # minus infinity is ln 0
        raise ValueError(f"expected a number, found {value!r}")
    return number


def _as_numbers(values: object, n_labels: int) -> list[float]:
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise ValueError(f"expected a list of {n_labels} numbers, found {values!r}")
    if len(values) != n_labels:
        raise ValueError(f"expected {n_labels} numbers, one per label, found {len(values)}")
    return [_as_number(value) for value in values]


def _plain(kind: str, values: Any) -> list[Any]:
    if kind == "number":
        return [None if np.isnan(v) else float(v) for v in values]
    if kind == "numbers":
        return [None if np.isnan(row).all() else row.tolist() for row in values]
    if kind == "texts":
        return [list(row) for row in values]
    if kind in ("integer", "flag"):
        return [value.item() for value in values]
    return list(values)


def _write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    partial = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or error
        raise PredictionsError(f"{path}: cannot be written: {reason}; nothing was left behind") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _write_jsonl(predictions: Predictions, file: IO[bytes]) -> None:
    columns = predictions.columns()
    head = {"info": predictions.info.as_dict(), "rows": len(predictions)}
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    for record in (head, *rows):
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _write_parquet(predictions: Predictions, file: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "text": pa.string(),
        "texts": pa.list_(pa.string()),
        "integer": pa.int64(),
        "flag": pa.bool_(),
        "number": pa.float64(),
        "numbers": pa.list_(pa.float64()),
    }
    columns = predictions.columns()
    metadata = {_KEY: json.dumps(predictions.info.as_dict(), ensure_ascii=False).encode()}
    schema = pa.schema([(name, types[_KINDS[name]]) for name in columns], metadata=metadata)
    pq.write_table(pa.table(columns, schema=schema), file, write_page_checksum=True)


def _read_jsonl(content: bytes) -> tuple[PredictionsInfo, dict[str, list[Any]]]:
    records = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise PredictionsError(f"line {number}: not JSON ({error}); the file is damaged or cut off") from None
        if not isinstance(records[-1], dict):
            raise PredictionsError(f"line {number}: expected a JSON object")
    head, rows = records[0], records[1:]
    if "info" not in head:
        raise PredictionsError('line 1: expected the metadata, {"info": ...}; this is no predictions table')
    if head.get("rows", len(rows)) != len(rows):
        raise PredictionsError(f"the first line promises {head['rows']} rows, found {len(rows)}; the file is cut off")
    names = {name for row in rows for name in row} if rows else set(REQUIRED)
    return _read_info(head["info"]), {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(content: bytes) -> tuple[PredictionsInfo, dict[str, list[Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if content[:4] != b"PAR1":
        raise PredictionsError("neither Parquet nor JSONL; expected a table written by `erc-llm predict`")
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        names = [name for name in _KINDS if name in file.schema_arrow.names]
        table = file.read(columns=names)
        columns = {name: table.column(name).to_pylist() for name in names}
        metadata = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError, KeyError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PredictionsError(f"damaged or cut off ({reason}); make it again with `erc-llm predict`") from None
    if metadata is None:
        raise PredictionsError(f"Parquet without the metadata '{_KEY.decode()}'; this is no predictions table")
    return _read_info(metadata), columns


def _read_info(record: object) -> PredictionsInfo:
    from pydantic import TypeAdapter, ValidationError

    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise PredictionsError(
            f"format version {version!r}; this version of erc-llm reads {FORMAT_VERSION}; make the table again"
        )
    try:
        return TypeAdapter(PredictionsInfo).validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise PredictionsError(f"metadata: {problems}") from None
