"""Corpus files: finds the files to read, decodes them, and takes their split from the file name.

Input: a file, a directory of split files, a folder that `datasets` saved, or a dataset of the hub as `hub:OWNER/NAME`.
Output: `Source` records: decoded text, split, checksum of the bytes.
Does not depend on: the content of the files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from erc_llm.corpus.datasets_folder import (
    HUB,
    download_dataset,
    is_saved_dataset,
    parquet_files,
    read_parquet,
    read_saved_dataset,
)
from erc_llm.corpus.read_warnings import ReadWarnings
from erc_llm.errors import CorpusError

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "selection": ("selection",),
    "dev": ("dev", "development", "valid", "validation", "val"),
    "test": ("test", "testing", "tst"),
}
WHOLE = "all"  # the split of a file whose name states none
DATA_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ""})

SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}


@dataclass(frozen=True, slots=True)
class Source:
    """One file that was read.

    Attributes:
        path: Path as the user gave it.
        split: The split in the file name; None if it states none.
        text: Decoded content without byte order mark; lines end with a line feed.
        sha256: Hash of the bytes, in hexadecimal.
    """

    path: Path
    split: str | None
    text: str
    sha256: str

    @property
    def name(self) -> str:
        """`folder/file`: distinguishes files without revealing paths of the machine."""
        return "/".join(self.path.parts[-2:])


def open_sources(path: Path | str, warned: ReadWarnings) -> list[Source]:
    """Read a file, the split files of a directory without its subdirectories, or a dataset.

    Raises:
        CorpusError: No such file, or a file cannot be read, is not UTF-8, or has a name that states two splits; or a
            dataset cannot be downloaded or read.
    """
    if str(path).startswith(HUB):
        path = download_dataset(str(path).removeprefix(HUB))
        if parquet := parquet_files(path):
            names = {file: split_of_name(file) or WHOLE for file in parquet}
            return [
                _of_rows(path / split, read_parquet([file for file in parquet if names[file] == split], path))
                for split in dict.fromkeys(names.values())
            ]
    path = Path(path)
    if is_saved_dataset(path):
        return [_of_rows(path / name, text) for name, text in read_saved_dataset(path)]
    try:
        if path.is_dir():
            return [_open(file) for file in _split_files(path, warned)]
        return [_open(path)]
    except FileNotFoundError:
        raise CorpusError("no such file or directory; expected a corpus file or a folder of them", path) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise CorpusError(f"cannot be read: {getattr(error, 'strerror', None) or error}", path) from None


def split_of_name(path: Path) -> str | None:
    """The split in a file name, such as dev for `emorynlp_dev_final.csv`; None if the name states none.

    Raises:
        CorpusError: The name states more than one split.
    """
    found = sorted({SPLIT_OF_WORD[w] for w in re.findall(r"[a-z]+", path.stem.casefold()) if w in SPLIT_OF_WORD})
    if len(found) > 1:
        raise CorpusError(
            f"the file name states {len(found)} splits ({', '.join(found)}); expected one: rename the file", path
        )
    return found[0] if found else None


def decode(data: bytes, path: Path) -> str:
    """Decode UTF-8 with or without byte order mark; Windows and old Macintosh line ends become line feeds.

    Raises:
        CorpusError: A byte is not UTF-8; the message names its line and offset.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CorpusError("found UTF-16; expected UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`", path)
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


def _of_rows(path: Path, text: str) -> Source:
    """The rows of one split of a dataset; the last part of the path is the split's name."""
    split = SPLIT_OF_WORD.get(path.name.casefold(), path.name)
    return Source(path, split, text, hashlib.sha256(text.encode()).hexdigest())


def _open(path: Path) -> Source:
    data = path.read_bytes()
    return Source(path, split_of_name(path), decode(data, path), hashlib.sha256(data).hexdigest())


def _split_files(folder: Path, warned: ReadWarnings) -> list[Path]:
    visible = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not p.name.endswith("~"))
    files = [p for p in visible if p.is_file()]
    data = [p for p in files if p.suffix.casefold() in DATA_SUFFIXES]
    chosen = [p for p in data if split_of_name(p) is not None]
    if not chosen:
        tables = [p for p in data if p.suffix.casefold() not in (".txt", "")]  # a single README.txt is not a corpus
        if len(tables) != 1:
            raise CorpusError(_nothing_found(files, [p for p in visible if p.is_dir()]), folder)
        return tables
    for file in data:
        if file not in chosen and file.suffix.casefold() not in (".txt", ""):
            warned.add("file left out, because its name states no split", file.name)
    for file in files:
        if file not in data and SPLIT_OF_WORD.keys() & set(re.findall(r"[a-z]+", file.stem.casefold())):
            warned.add(
                f"file left out, because its suffix is none of {', '.join(sorted(DATA_SUFFIXES - {''}))}", file.name
            )
    order = list(SPLIT_WORDS)
    return sorted(chosen, key=lambda p: (order.index(split_of_name(p) or ""), p.name))


def _nothing_found(files: Iterable[Path], folders: Iterable[Path]) -> str:
    found = [p.name for p in files] + [f"{p.name}/" for p in folders]
    listed = ", ".join(found[:8]) + (" ..." if len(found) > 8 else "") if found else "nothing"
    return (
        "no split files in this folder; expected names with train (trn), dev (val, valid) or test (tst) in them, such "
        f"as train.jsonl; found {listed}. Give one of the subfolders, or a single file"
    )
