import json
import multiprocessing
from pathlib import Path

import pytest

from datamodules.files.json_log import JsonLog, json_digest

pytestmark = pytest.mark.unit

FIRST, SECOND = '{"text": "sad\\u2028"}', '{"text": "froh ü"}'


@pytest.mark.parametrize("kept", range(1, len(SECOND.encode())))
def test_a_line_cut_at_any_place_costs_that_line_only(tmp_path: Path, kept: int) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    log.append(FIRST)
    with log.path.open("ab") as file:
        file.write(SECOND.encode()[:kept])
    log.append(FIRST)
    log.append(SECOND)
    assert list(log.rows()) == [json.loads(FIRST), {}, json.loads(FIRST), json.loads(SECOND)]


@pytest.mark.parametrize("kept", range(1, len(SECOND.encode())))
def test_a_cut_line_is_taken_away(tmp_path: Path, kept: int) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    log.append(FIRST)
    whole = log.path.read_bytes()
    with log.path.open("ab") as file:
        file.write(SECOND.encode()[:kept])
    assert log.drop_cut_line() and log.path.read_bytes() == whole
    assert not log.drop_cut_line()


def test_a_whole_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    log.path.write_text(FIRST)
    assert not log.drop_cut_line()
    log.append(SECOND)
    assert list(log.rows()) == [json.loads(FIRST), json.loads(SECOND)]


@pytest.mark.parametrize("line", [b"[]", b"3", b"\xff", b"null", b"[" * 100_000, b'{"a": 1} {"b": 2}'])
def test_what_is_no_object_is_empty(tmp_path: Path, line: bytes) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    log.path.write_bytes(b"\n" + line + b"\n \n" + FIRST.encode())
    assert list(log.rows()) == [{}, json.loads(FIRST)]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    assert list(log.rows()) == [] and not log.drop_cut_line()


def _append(path: Path, writer: int) -> None:
    log = JsonLog(path)
    for i in range(50):
        log.append(json.dumps({"writer": writer, "i": i, "text": "x" * 5000}))


def test_processes_share_a_file(tmp_path: Path) -> None:
    path, context = tmp_path / "log.jsonl", multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, writer)) for writer in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    rows = list(JsonLog(path).rows())
    assert {} not in rows and len(rows) == 150
    for writer in range(3):
        assert [row["i"] for row in rows if row["writer"] == writer] == list(range(50))


def test_the_digest_depends_on_all_of_the_value_and_on_nothing_else():
    value = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "a\ud83d"}]}
    assert json_digest(value) == json_digest(dict(reversed(value.items())))
    others = [{"model": "n"}, {"temperature": 1}, {"top_p": 1}, {"messages": []}]
    assert len({json_digest({**value, **other}) for other in [{}, *others]}) == 5
