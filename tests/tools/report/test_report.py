"""The tool, through the command line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main
from datamodules.files.printable import readable_name

pytestmark = pytest.mark.e2e

Rows = Callable[..., dict[str, Any]]
Write = Callable[[str, list[dict[str, Any]]], str]


def embedded(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def report(*arguments: str) -> None:
    main.run(["report", *arguments, "--num_workers", "1"])


def test_two_files_become_one_page(
    row: Rows, write: Write, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    rows = [row("1", media=str(clip)), row("2", media=str(broken)), row("3", media="/not/here.mp4"), row("4")]
    files = [write("cold", rows), write("erv", rows[:2])]
    report("--predictions", *files, "--output", str(tmp_path / "report"), "--num_frames", "2")
    data = embedded(tmp_path / "report" / "report.html")
    assert [own["name"] for own in data["runs"]] == ["cold", "erv"]
    assert [clip["strip"] is not None for clip in data["clips"]] == [True, False, False, False]
    assert (tmp_path / "report" / data["clips"][0]["source"]).resolve() == clip.resolve()
    shown = capsys.readouterr().out
    assert "2 of 4 clips have no media file at hand" in shown and "1 of 4 clips do not decode" in shown
    assert "cold" in shown and "100.0" in shown


def test_a_clip_whose_name_is_no_utf8_and_one_whose_name_no_system_takes(
    clip: Path, row: Rows, write: Write, tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode("开心.mp4".encode("gb18030"))
    shutil.copy(clip, odd)
    rows = [row("1", media=readable_name(str(odd))), row("2", media="/" + "n" * 5000 + ".mp4")]
    report("--predictions", write("run", rows), "--output", str(tmp_path / "out"), "--num_frames", "2")
    first, second = embedded(tmp_path / "out" / "report.html")["clips"]
    assert first["strip"] is not None and first["source"] == "./../%BF%AA%D0%C4.mp4"
    assert second["notes"][0].startswith("The media file is not at hand: /nnn")


def test_rows_of_score_without_media_are_enough(row: Rows, write: Write, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row("1").items() if k not in ("dataset", "media", "completion")}]
    report(f"--predictions=[{write('a', rows)}]", "--output", str(tmp_path), "--names", "mine")
    data = embedded(tmp_path / "report.html")
    assert data["runs"][0]["name"] == "mine" and data["clips"][0]["runs"][0]["completion"] is None


def test_truth_is_found_by_the_media_file(row: Rows, write: Write, tmp_path: Path) -> None:
    clip = {"media": "Clip/1.mp4", "label": "happiness", "face_emotion": "happiness", "voice_emotion": "happiness"}
    truth = tmp_path / "synthetic.json"
    truth.write_text(json.dumps({"clips": [clip]}))
    options = ["--output", str(tmp_path / "out"), "--truth", str(truth)]
    report("--predictions", write("a", [row("x", media="/gone/Clip/1.mp4")]), *options)
    (own,) = embedded(tmp_path / "out" / "report.html")["clips"]
    assert own["truth"]["face_emotion"] == "happiness"
    with pytest.raises(ValueError, match=r"1 of 2 clips have no truth in .*synthetic.json, the first is '2'"):
        report("--predictions", write("b", [row("x", media="Clip/1.mp4"), row("2")]), *options)


def test_what_cannot_be_reported_is_refused(row: Rows, write: Write, tmp_path: Path) -> None:
    good, other = write("a", [row("1")]), write("b", [row("1", taxonomy="mafw")])
    output = ["--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="Make one report for each taxonomy"):
        report("--predictions", good, other, *output)
    with pytest.raises(ValueError, match="Got 1 names"):
        report("--predictions", good, other, "--names", "x", *output)
    with pytest.raises(ValueError, match="num_frames >= 0"):
        report("--predictions", good, *output, "--num_frames=-1")
    cut = Path(good).with_name("cut.jsonl")
    cut.write_text(Path(good).read_text() + '{"id": "2", "tar')
    with pytest.raises(ValueError, match=r"cut.jsonl:2: not valid JSON"):
        report("--predictions", str(cut), *output)
    assert not (tmp_path / "out").exists()
