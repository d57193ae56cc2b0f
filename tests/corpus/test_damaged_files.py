"""Whatever happens to a file, reading it gives a corpus or a `CorpusError`, never anything else."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from erc_llm.cli.corpus_view import print_summary
from erc_llm.corpus import Corpus, read_corpus
from erc_llm.corpus.summary import summarise
from erc_llm.errors import CorpusError
from tests.corpus.small_files import DEV, FORMATS, TRAIN, aligned, original, own

JUNK = [b"", b"\x00", b'"', b"'", b"[", b"{", b"}", b"\\", b"\\ud800", b"\n", b"\r", b"\t", b",", b"\xff", b"\xc3"]
JUNK += [b"\xef\xbb\xbf", b"9" * 5000, b"[" * 100_000, b"null", b"NaN", b"1e999", b"\xe2\x80\xa8", b"\xf0\x9f\xa5\xb2"]
JUNK += [b'"episodes": ', b"\n\n", b'{"id": "x", "utterances": []}\n', b"Utterance,Speaker\n", b"\x1b[31m"]

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def use(path: Path) -> Corpus | None:
    """Read it, and use it if it was not refused."""
    try:
        corpus = read_corpus(path)
    except CorpusError as error:
        refusal = error
    else:
        use_all(corpus)
        return corpus
    assert refusal.exit_code == 2
    assert str(refusal).startswith(str(path))
    assert str(refusal).encode().decode().isprintable()
    return None


def use_all(corpus: Corpus) -> None:
    summary = summarise(corpus)
    json.dumps(summary.as_dict()).encode()
    print_summary(summary, Console(file=io.TextIOWrapper(io.BytesIO(), "utf-8"), width=80))
    ids = [(d.id, u.id) for d in corpus.dialogues() for u in d.utterances]
    assert len(set(ids)) == len(ids) > 0
    assert all(u.speakers and all(u.speakers) for d in corpus.dialogues() for u in d.utterances)


def refused(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError) as caught:
        read_corpus(path)
    return str(caught.value)


@pytest.mark.parametrize("version", FORMATS)
@given(data=st.data())
@relaxed
def test_a_file_cut_anywhere(version: str, data: st.DataObject, tmp_path: Path) -> None:
    whole = FORMATS[version](TRAIN).encode()
    path = tmp_path / "train.txt"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    use(path)


@pytest.mark.parametrize("version", FORMATS)
@given(data=st.data())
@relaxed
def test_bytes_changed_anywhere(version: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(FORMATS[version](TRAIN).encode())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    use(path)


@pytest.mark.parametrize("version", FORMATS)
@given(data=st.data())
@relaxed
def test_junk_put_in_anywhere(version: str, data: st.DataObject, tmp_path: Path) -> None:
    content = FORMATS[version](TRAIN).encode()
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content)))
        content = content[:position] + data.draw(st.sampled_from(JUNK) | st.binary(max_size=8)) + content[position:]
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    use(path)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@relaxed
def test_any_bytes_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    use(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "text", "speaker"]), inner),
    max_leaves=6,
)


@given(data=st.data())
@relaxed
def test_a_value_of_another_kind_anywhere(data: st.DataObject, tmp_path: Path) -> None:
    def spoil(value: object) -> object:
        if data.draw(st.integers(0, 9)) == 0:
            return data.draw(json_values)
        if isinstance(value, dict):
            return {key: spoil(item) for key, item in value.items() if data.draw(st.integers(0, 19))}
        return [spoil(item) for item in value] if isinstance(value, list) else value

    path = tmp_path / "train.txt"
    path.write_text(json.dumps(spoil(json.loads(original(DEV)))))
    use(path)
    path.write_text(json.dumps(spoil(json.loads(own(DEV)))))
    use(path)


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=12)), min_size=1, max_size=5))
@relaxed
def test_any_names_and_texts_come_back_as_they_were(tmp_path: Path, lines: list[tuple[str, str]]) -> None:
    rows = [{"speaker": speaker, "text": text} for speaker, text in lines]
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"id": "a", "utterances": rows}), encoding="utf-8")
    corpus = use(path)
    if corpus is not None:
        read = corpus.split("train")[0].utterances
        assert [(u.speakers, u.text) for u in read] == [((speaker.strip(),), text) for speaker, text in lines]


# One clear message for each


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"gone\.jsonl: no such file or directory"):
        read_corpus(tmp_path / "gone.jsonl")
    with pytest.raises(CorpusError, match="found nothing"):
        read_corpus(tmp_path)
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus("a\0b")


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file(content: str, tmp_path: Path) -> None:
    assert refused(tmp_path / "dev.csv", content).endswith("dev.csv: the file is empty")


def test_an_empty_corpus(tmp_path: Path) -> None:
    assert "the corpus is empty" in refused(tmp_path / "dev.json", '{"episodes": []}')
    assert "the corpus is empty" in refused(tmp_path / "dev.csv", aligned([]))
    assert "the corpus is empty" in refused(tmp_path / "dev.jsonl", '{"id": "a", "utterances": []}')


def test_json_cut_in_the_middle(tmp_path: Path) -> None:
    text = original(DEV)
    cut = text[: text.index("cellar")]
    message = refused(tmp_path / "dev.json", cut)
    assert f"dev.json:{cut.count(chr(10)) + 1}: not valid JSON" in message
    assert "the text is cut off" in message


def test_jsonl_cut_in_the_middle(tmp_path: Path) -> None:
    message = refused(tmp_path / "train.jsonl", own(TRAIN)[:-20])
    assert "train.jsonl:3: not valid JSON" in message
    assert "the text is cut off" in message


def test_jsonl_written_over_several_lines(tmp_path: Path) -> None:
    message = refused(tmp_path / "train.jsonl", json.dumps(json.loads(own(DEV)), indent=2))
    assert "train.jsonl:1: not valid JSON" in message
    assert "a dialogue on each line" in message


@pytest.mark.parametrize("depth", [300, 100_000])
def test_json_nested_beyond_reason(depth: int, tmp_path: Path) -> None:
    nest = "[" * depth + "]" * depth
    first = refused(tmp_path / "dev.jsonl", '{"id": "a", "utterances": [{"text": "x", "speaker": ' + nest + "}]}")
    second = refused(tmp_path / "dev.json", '{"episodes": [{"scenes": [{"scene_id": ' + nest + "}]}]}")
    assert all(str(tmp_path) in message and len(message) < 500 for message in (first, second))


def test_numbers_of_thousands_of_digits(tmp_path: Path) -> None:
    digits = "9" * 5000
    assert "not usable JSON" in refused(tmp_path / "dev.jsonl", '{"id": ' + digits + ', "utterances": []}')
    assert "Season is" in refused(tmp_path / "dev.csv", aligned(DEV).replace(",1,1,1,2,", f",1,1,{digits},2,"))


def test_a_csv_without_a_needed_column(tmp_path: Path) -> None:
    text = "Sr No.,Utterance,Speaker,Emotion,Utterance_ID,Season,Episode\n1,Hm,Ada,joy,0,1,2\n"
    message = refused(tmp_path / "dev.csv", text)
    assert "dev.csv:1: CSV without the column Scene_ID; found 'Sr No.', 'Utterance'" in message
    assert "docs/own-corpus.md" in message


def test_a_meld_csv_without_a_needed_column_or_with_another_time(tmp_path: Path) -> None:
    header = "Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID,Season,Episode"
    message = refused(tmp_path / "dev.csv", f"{header}\n1,Hm,Ada,Sad,0,0,1,2\n")
    assert "dev.csv:1: CSV without the column StartTime; found 'Sr No.', 'Utterance'" in message
    message = refused(tmp_path / "dev.csv", f"{header},StartTime\n1,Hm,Ada,Sad,0,0,1,2,soon\n")
    assert "dev.csv:2: StartTime is 'soon'; expected a time such as 00:20:57,256" in message


def test_a_csv_row_of_another_length_and_an_open_quote(tmp_path: Path) -> None:
    assert "dev.csv:5: found a row of 3 fields; the header has 9" in refused(
        tmp_path / "dev.csv", aligned(DEV) + "a,b,c\n"
    )
    assert "not valid CSV" in refused(tmp_path / "dev.csv", aligned(DEV) + '"never closed\n')


def test_a_csv_number_that_is_none(tmp_path: Path) -> None:
    text = aligned(DEV).replace(",1,2,1,2,", ",1,two,1,2,")
    assert "dev.csv:3: Utterance_ID is 'two'; expected a whole number" in refused(tmp_path / "dev.csv", text)


def test_a_csv_speaker_that_is_no_list(tmp_path: Path) -> None:
    text = aligned(DEV).replace("['Ada Quill']", "['Ada Quill'")
    assert "dev.csv:3: Speaker is" in refused(tmp_path / "dev.csv", text)


def test_a_compm_line_without_three_fields(tmp_path: Path) -> None:
    message = refused(tmp_path / "dev.txt", "Ada\tHm.\tSad\nBo\tHm.\n")
    assert "dev.txt:2: found 2 fields separated by tabs; expected three" in message


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_invalid_utf8_is_named_with_line_and_byte(mark: bytes, tmp_path: Path) -> None:
    content = mark + b"Ada\tHm.\tSad\nBo\tcaf\xe9 au lait\tSad\n"
    message = refused(tmp_path / "dev.txt", content)
    assert f"dev.txt:2: byte {content.index(0xE9)} (0xe9) is not valid UTF-8" in message
    assert "found UTF-16" in refused(tmp_path / "dev.txt", "Ada\tHm.\tSad".encode("utf-16"))


def test_a_json_scene_id_of_another_form(tmp_path: Path) -> None:
    message = refused(tmp_path / "dev.json", original(DEV).replace('"s01_e02_c01"', '"first"'))
    assert "episodes[0].scenes[0].scene_id is 'first'; expected the form 's01_e15_c01'" in message


def test_a_json_utterance_without_emotion(tmp_path: Path) -> None:
    text = original(DEV)
    lines = text.replace('"emotion": "Peaceful"', '"feeling": "Peaceful"')
    assert "utterances[1] has no 'emotion'; it has 'utterance_id'" in refused(tmp_path / "dev.json", lines)


def test_what_is_none_of_the_four_formats(tmp_path: Path) -> None:
    message = refused(tmp_path / "dev.txt", "Dear diary,\n\x1b[31mtoday I saw a cat.\n")
    assert "unknown file format; the file begins with 'Dear diary,'" in message
    assert "\x1b" not in refused(tmp_path / "dev.txt", "\x1b[31mred")
