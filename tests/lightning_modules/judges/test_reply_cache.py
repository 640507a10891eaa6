"""Replies on disk: cut files, foreign lines, several writers."""

import json
import threading

import pytest

from lightning_modules.judges.chat import Reply
from lightning_modules.judges.reply_cache import ReplyCache

pytestmark = pytest.mark.unit

REPLY = Reply("sad\u2028\ud83d", 7, 2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "replies.jsonl"


def test_a_reply_is_in_the_file_when_it_is_added(path):
    cache = ReplyCache(path)
    assert cache.get("a") is None
    cache.add("a", REPLY)
    assert cache.get("a") == ReplyCache(path).get("a") == REPLY
    assert json.loads(path.read_text()) == {
        "key": "a",
        "reply": REPLY.text,
        "prompt_tokens": 7,
        "completion_tokens": 2,
    }


@pytest.mark.parametrize("kept", range(1, 9))
def test_a_line_cut_at_any_place_costs_that_line_only(path, caplog, kept):
    cache = ReplyCache(path)
    cache.add("a", REPLY)
    cache.add("b", REPLY)
    content = path.read_bytes()
    second = content.index(b"\n") + 1
    path.write_bytes(content[: second + (len(content) - second - 2) * kept // 8])
    cut = ReplyCache(path)
    assert "1 of 2 lines are cut or no replies" in caplog.text
    cut.add("c", REPLY)
    cut.add("d", REPLY)
    again = ReplyCache(path)
    assert [again.get(key) for key in "abcd"] == [REPLY, None, REPLY, REPLY]


def test_a_whole_last_line_without_its_end_is_read(path):
    ReplyCache(path).add("a", REPLY)
    path.write_bytes(path.read_bytes().rstrip())
    cache = ReplyCache(path)
    cache.add("b", REPLY)
    assert [ReplyCache(path).get(key) for key in "ab"] == [REPLY, REPLY]


@pytest.mark.parametrize(
    "line", ["[]", "3", "{}", '{"key": 1, "reply": "a", "prompt_tokens": 1}', "\xff", "null", "[" * 100_000]
)
def test_foreign_lines_are_skipped_and_said(path, caplog, line):
    ReplyCache(path).add("a", REPLY)
    path.write_bytes(line.encode("latin-1") + b"\n" + path.read_bytes())
    assert ReplyCache(path).get("a") == REPLY
    assert "1 of 2 lines" in caplog.text


def test_a_number_of_tokens_that_is_none_is_unknown(path):
    ReplyCache(path).add("a", REPLY)
    path.write_bytes(path.read_bytes().replace(b": 7", b": 1e999").replace(b": 2", b": -2"))
    assert ReplyCache(path).get("a") == Reply(REPLY.text, 0, 0)


def test_threads_and_further_caches_write_to_one_file(path):
    caches = [ReplyCache(path), ReplyCache(path)]

    def write(i: int) -> None:
        for j in range(20):
            caches[i % 2].add(f"{i}-{j}", Reply("x" * 500, i, j))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = ReplyCache(path)
    assert all(read.get(f"{i}-{j}") == Reply("x" * 500, i, j) for i in range(6) for j in range(20))


def test_a_cache_that_cannot_be_written_is_an_error_before_anything_is_asked(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        ReplyCache(tmp_path / "file" / "replies.jsonl")
