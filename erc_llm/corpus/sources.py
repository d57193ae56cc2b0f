"""From a path a user gives to the texts that are to be read.

In: a file or a directory of split files. Out: `Source` records: decoded text, the split its name tells, a checksum of
its bytes. Knows which names mean which split; deliberately nothing of what stands inside a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from erc_llm.corpus.read_warnings import ReadWarnings
from erc_llm.errors import CorpusError

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "selection": ("selection",),
    "dev": ("dev", "development", "valid", "validation", "val"),
    "test": ("test", "testing", "tst"),
}
WHOLE = "all"  # the split of a file whose name tells none
DATA_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ""})

SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}


@dataclass(frozen=True, slots=True)
class Source:
    """One file, read.

    Attributes:
        path: Where it is, as the user would write it.
        split: The split its name tells; None where it tells none.
        text: Its content, without byte order mark, lines ended by a line feed.
        sha256: Hash of its bytes, in hexadecimal.
    """

    path: Path
    split: str | None
    text: str
    sha256: str

    @property
    def name(self) -> str:
        """`folder/file`: enough to tell files apart, and nothing about the machine."""
        return "/".join(self.path.parts[-2:])


def open_sources(path: Path | str, warned: ReadWarnings) -> list[Source]:
    """Read a file, or the split files of a directory (not of its subdirectories).

    Raises:
        CorpusError: Nothing is there, it cannot be read, is not UTF-8, or its name tells two splits.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return [_open(file) for file in _split_files(path, warned)]
        return [_open(path)]
    except FileNotFoundError:
        raise CorpusError("no such file or directory; expected a corpus file or a folder of them", path) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise CorpusError(f"cannot be read: {getattr(error, 'strerror', None) or error}", path) from None


def split_of_name(path: Path) -> str | None:
    """The split that a file's name tells, such as dev for `emorynlp_dev_final.csv`; None where it tells none.

    Raises:
        CorpusError: It tells more than one.
    """
    found = sorted({SPLIT_OF_WORD[w] for w in re.findall(r"[a-z]+", path.stem.casefold()) if w in SPLIT_OF_WORD})
    if len(found) > 1:
        raise CorpusError(
            f"the file's name tells {len(found)} splits ({', '.join(found)}); expected one: rename it", path
        )
    return found[0] if found else None


def decode(data: bytes, path: Path) -> str:
    """UTF-8 with or without byte order mark; Windows and old Macintosh line ends become line feeds.

    Raises:
        CorpusError: A byte is not UTF-8; the message names its line and offset.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CorpusError("is UTF-16; expected UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`", path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        message = (
            f"byte {offset} (0x{data[offset]:02x}) is not valid UTF-8; if the file is in a Windows encoding, convert "
            "it with `iconv -f WINDOWS-1252 -t UTF-8`"
        )
        raise CorpusError(message, path, data.count(b"\n", 0, offset) + 1) from None
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def _open(path: Path) -> Source:
    data = path.read_bytes()
    return Source(path, split_of_name(path), decode(data, path), hashlib.sha256(data).hexdigest())


def _split_files(folder: Path, warned: ReadWarnings) -> list[Path]:
    visible = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not p.name.endswith("~"))
    files = [p for p in visible if p.is_file()]
    data = [p for p in files if p.suffix.casefold() in DATA_SUFFIXES]
    chosen = [p for p in data if split_of_name(p) is not None]
    if not chosen:
        tables = [p for p in data if p.suffix.casefold() not in (".txt", "")]  # a lone README.txt is no corpus
        if len(tables) != 1:
            raise CorpusError(_nothing_found(files, [p for p in visible if p.is_dir()]), folder)
        return tables
    for file in data:
        if file not in chosen and file.suffix.casefold() not in (".txt", ""):
            warned.add("left out, because its name tells no split", file.name)
    for file in files:
        if file not in data and SPLIT_OF_WORD.keys() & set(re.findall(r"[a-z]+", file.stem.casefold())):
            warned.add(f"left out, because it ends in none of {', '.join(sorted(DATA_SUFFIXES - {''}))}", file.name)
    order = list(SPLIT_WORDS)
    return sorted(chosen, key=lambda p: (order.index(split_of_name(p) or ""), p.name))


def _nothing_found(files: Iterable[Path], folders: Iterable[Path]) -> str:
    found = [p.name for p in files] + [f"{p.name}/" for p in folders]
    listed = ", ".join(found[:8]) + (" ..." if len(found) > 8 else "") if found else "nothing"
    return (
        "no split files in this folder; expected names with train (trn), dev (val, valid) or test (tst) in them, such "
        f"as train.jsonl; found {listed}. Give one of its folders, or a single file"
    )
