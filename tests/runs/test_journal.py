"""A journal keeps what was added, whatever happened to the process that added it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from erc_llm.errors import ConfigError, UserError
from erc_llm.runs.journal import Journal

ROOT = Path(__file__).parents[2]


def test_values_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers"
    journal = Journal(path)
    assert (len(journal), path.exists()) == (0, False)
    journal.add("a", {"text": "é\u2028\n", "n": [1.5, -0.25]})
    journal.add("b", None)
    assert dict(Journal(path).values) == {"a": {"text": "é\u2028\n", "n": [1.5, -0.25]}, "b": None} == journal.values
    journal.remove()
    journal.remove()
    assert len(Journal(path)) == 0


def test_a_torn_last_line_is_skipped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    for key in "abc":
        Journal(path).add(key, key * 10)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        kept = {"a", "b"} | ({"c"} if cut == len(whole) - 1 else set())  # it lacks only its line break
        journal = Journal(path)
        assert set(journal.values) == kept
        journal.add("d", 1)
        assert set(Journal(path).values) == kept | {"d"}
        assert path.read_bytes().startswith(whole[:last])


def test_what_is_no_entry_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_bytes(b'\xff\n[1]\nnull\n{"key": 1, "value": 2}\n{"key": "a"}\n\n{"key": "b", "value": 3}\n')
    journal = Journal(path)
    assert dict(journal.values) == {"b": 3}
    journal.add("c", 4)
    assert dict(Journal(path).values) == {"b": 3, "c": 4}


def test_two_processes_that_add_to_one_file_lose_nothing_of_each_other(tmp_path: Path) -> None:
    """One opens it while a line of the other is half written; removing that half would remove what follows."""
    path = tmp_path / "answers"
    Journal(path).add("a", 1)
    with open(path, "ab", buffering=0) as other:
        other.write(b'{"key": "b", ')
        journal = Journal(path)
        other.write(b'"value": 2}\n')
    journal.add("c", 3)
    assert dict(Journal(path).values) == {"a": 1, "b": 2, "c": 3}


def test_a_head_is_written_at_once_and_must_agree(tmp_path: Path) -> None:
    path, head = tmp_path / "new" / "notes", {"model": "m", "words": 30}
    Journal(path, head)
    assert json.loads(path.read_text("utf-8")) == head
    Journal(path, head).add("a", 1)
    assert dict(Journal(path, head).values) == {"a": 1}
    with pytest.raises(ConfigError, match=r"notes: written with another words; name another file"):
        Journal(path, head | {"words": 31})
    with pytest.raises(ConfigError, match="another source"):
        Journal(path, {"model": "m"})
    assert dict(Journal(path, head).values) == {"a": 1}


def test_the_last_value_of_a_key_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers")
    journal.add("a", 1)
    journal.add("a", 2)
    assert dict(Journal(tmp_path / "answers").values) == {"a": 2}


def test_a_killed_process_loses_nothing_it_added(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    code = (
        "import os, signal, sys; from pathlib import Path; from erc_llm.runs.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for k in range(100): journal.add(str(k), k)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert dict(Journal(path).values) == {str(k): k for k in range(100)}


def test_a_journal_that_cannot_be_written_or_read_is_one_clear_message(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers")
    (tmp_path / "answers").mkdir()
    with pytest.raises(UserError, match=r"cannot be written.*earlier results are kept"):
        journal.add("a", 1)
    with pytest.raises(UserError, match="cannot be read"):
        Journal(tmp_path)
