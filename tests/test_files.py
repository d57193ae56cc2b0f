"""Files appear whole or not at all: no space, no permission, a writer that fails, a folder in the way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from erc_llm.errors import PredictionsError, RunError, UserError
from erc_llm.files import has_files, whole_folder, write_text, write_whole


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_appears_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "Zoë ist da\n")
    assert path.read_bytes() == "Zoë ist da\n".encode()
    assert os.listdir(path.parent) == ["text.txt"]


def test_no_space_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def half(file: IO[bytes]) -> None:
        file.write(b"the first half")
        file.flush()
        assert len(os.listdir(tmp_path)) == 1
        _no_space()

    with pytest.raises(UserError, match=r"table\.parquet.*No space left") as caught:
        write_whole(tmp_path / "table.parquet", half)
    assert caught.value.exit_code == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_space_at_the_last_moment_keeps_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, call, _no_space)
    with pytest.raises(RunError, match="No space left"):
        write_text(path, "new", RunError)
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_without_space_is_reported(tmp_path: Path) -> None:
    """A real ENOSPC from the kernel: the temporary name is made a link to /dev/full."""
    path = tmp_path / "text.txt"
    (tmp_path / f".text.txt.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left"):
        write_text(path, "x" * 100_000)
    assert os.listdir(tmp_path) == []


def test_the_error_is_of_the_class_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(PredictionsError, match="cannot be written"):
        write_text(tmp_path / "file" / "table.jsonl", "x", PredictionsError)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(RunError, match="folder: cannot be written"):
        write_text(folder, "x", RunError)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_writer_that_fails_otherwise_leaves_nothing_either(tmp_path: Path) -> None:
    def broken(file: IO[bytes]) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "x", broken)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_write_left_does_not_count_as_a_file(tmp_path: Path) -> None:
    assert not has_files(tmp_path / "missing")
    (tmp_path / ".table.parquet.7.partial").write_bytes(b"half")
    assert not has_files(tmp_path)
    (tmp_path / "table.parquet").write_bytes(b"whole")
    assert has_files(tmp_path)


def test_a_folder_appears_whole_and_replaces_an_older_one(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b[1]"
    remains = tmp_path / "a" / ".b[1].unfinished-killed"
    remains.mkdir(parents=True)
    for content in ("one", "two"):
        with whole_folder(folder) as draft:
            draft.mkdir()
            (draft / "file").write_text(content)
            assert not folder.exists() or (folder / "file").read_text() == "one"
    assert (folder / "file").read_text() == "two"
    assert os.listdir(folder.parent) == ["b[1]"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "file").write_text("one")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    def replace_it() -> None:
        with whole_folder(folder, RunError) as draft:
            draft.mkdir()

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunError, match="cannot be written"):
        replace_it()
    assert (folder / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["b"]


def test_what_a_killed_process_was_replacing_comes_back_and_a_running_one_is_left_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    killed = tmp_path / f".b.unfinished-{int(done.stdout)}-abc"
    (killed / "old").mkdir(parents=True)
    (killed / "old" / "file").write_text("one")
    running = tmp_path / f".b.unfinished-{os.getpid()}-abc"
    running.mkdir()
    folder = tmp_path / "b"
    with whole_folder(folder) as draft:
        assert (folder / "file").read_text() == "one"
        draft.mkdir()
        (draft / "file").write_text("two")
    assert (folder / "file").read_text() == "two"
    assert sorted(os.listdir(tmp_path)) == [running.name, "b"]


def test_a_folder_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "file").write_text("one")

    def fill(error: Exception) -> None:
        with whole_folder(folder, RunError) as draft:
            draft.mkdir()
            raise error

    with pytest.raises(RunError, match=r"b: cannot be written: No space left.*nothing was left behind"):
        fill(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(ZeroDivisionError):
        fill(ZeroDivisionError())
    assert (folder / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["b"]
