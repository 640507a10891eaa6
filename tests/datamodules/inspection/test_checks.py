"""What a check finds, and that no file is checked twice: after an end, a kill, or with other settings."""

import dataclasses
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datamodules.inspection import checks as checks_module
from datamodules.inspection.checks import CheckCache, ClipCheck, FileStamp, check_clip, check_clips
from datamodules.media_settings import MediaSettings, MelSettings

pytestmark = pytest.mark.unit

FOUND = ClipCheck(failure=None, duration_seconds=1.2, num_frames=30, peak=0.5)


def test_facts_of_a_clip_with_sound(golden_media: Path, settings: MediaSettings) -> None:
    check = check_clip(str(golden_media / "av_stereo44k.mp4"), settings)
    # As tests/golden/preprocess/README.md describes the file; `peak` is measured on what training hears.
    assert 0.05 < check.peak < 1.5
    assert dataclasses.replace(check, peak=None) == ClipCheck(
        failure=None,
        duration_seconds=1.8,
        num_frames=45,
        width=96,
        height=64,
        frames_per_second=25.0,
        video_codec="h264",
        audio_codec="aac",
        sample_rate=44_100,
        num_channels=2,
    )


def test_facts_of_a_clip_without_sound(
    tmp_path: Path, write_clip: Callable[[Path, int], Path], settings: MediaSettings
) -> None:
    check = check_clip(str(write_clip(tmp_path / "1.mp4", 1)), settings)
    assert (check.failure, check.num_frames, check.duration_seconds) == (None, 10, 0.4)
    assert (check.audio_codec, check.sample_rate, check.num_channels, check.peak) == (None, None, None, None)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("missing", "no such file"),
        ("zero bytes", "the file has zero bytes"),
        ("truncated", "cut short"),
        ("not a video", "cannot open"),
        ("corrupt streams", "broken"),
    ],
)
def test_failures_give_the_reason(what: str, reason: str, bad_files: dict[str, Path], settings: MediaSettings) -> None:
    check = check_clip(str(bad_files[what]), settings)
    assert reason in check.failure
    assert not check.failure.startswith(str(bad_files[what]))


def test_what_the_system_does_not_read_is_checked_again_the_next_time(
    tmp_path: Path,
    write_clip: Callable[[Path, int], Path],
    settings: MediaSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_here(function: Callable[[str], ClipCheck], items: list[str], *limits: float) -> Iterator[tuple]:
        yield from ((item, function(item)) for item in items)

    monkeypatch.setattr(checks_module, "run_isolated", run_here)
    link, loop = tmp_path / "link.mp4", tmp_path / "loop.mp4"
    link.symlink_to(tmp_path / "gone.mp4")
    loop.symlink_to(loop)
    paths, file = [str(link), str(loop)], tmp_path / "checks.jsonl"
    checks, _ = check_clips(paths, settings, CheckCache(file, settings), num_workers=1, timeout_seconds=60)
    assert [check.failure is None for check in checks.values()] == [False, False]
    assert not file.exists()
    write_clip(tmp_path / "gone.mp4", 0)
    checks, num_known = check_clips(paths, settings, CheckCache(file, settings), num_workers=1, timeout_seconds=60)
    assert [check.failure is None for check in checks.values()] == [True, False] and num_known == 0


def test_cache_survives_reopening_and_a_torn_line(tmp_path: Path, settings: MediaSettings) -> None:
    path = tmp_path / "checks.jsonl"
    first, second = FileStamp("/a.mp4", 10, 1), FileStamp("/b.mp4", 20, 2)
    CheckCache(path, settings).add(first, FOUND)
    with path.open("a") as file:
        file.write('{"path": "/b.mp4", "size": 20, "mti')
    reopened = CheckCache(path, settings)
    assert (reopened.get(first), reopened.get(second)) == (FOUND, None)
    reopened.add(second, ClipCheck(failure="broken"))
    again = CheckCache(path, settings)
    assert (again.get(first), again.get(second)) == (FOUND, ClipCheck(failure="broken"))


@pytest.mark.parametrize("change", [{"path": "/b.mp4"}, {"size": 11}, {"mtime_ns": 2}])
def test_a_changed_file_is_not_in_the_cache(change: dict[str, object], tmp_path: Path, settings: MediaSettings) -> None:
    cache = CheckCache(tmp_path / "checks.jsonl", settings)
    stamp = FileStamp("/a.mp4", 10, 1)
    cache.add(stamp, FOUND)
    assert cache.get(stamp) == FOUND
    assert cache.get(stamp._replace(**change)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": 3},
        {"image_size": 64},
        {"frame_fit": "stretch"},
        {"max_audio_seconds": 2.0},
        {"downmix": "mean"},
        {"mel": MelSettings()},
    ],
)
def test_other_settings_have_results_of_their_own(
    change: dict[str, object], tmp_path: Path, settings: MediaSettings
) -> None:
    path, stamp = tmp_path / "checks.jsonl", FileStamp("/a.mp4", 10, 1)
    CheckCache(path, settings).add(stamp, FOUND)
    assert CheckCache(path, dataclasses.replace(settings, **change)).get(stamp) is None
    assert CheckCache(path, settings).get(stamp) == FOUND


def test_results_of_another_torchcodec_are_not_used(
    tmp_path: Path, settings: MediaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stamp = tmp_path / "checks.jsonl", FileStamp("/a.mp4", 10, 1)
    CheckCache(path, settings).add(stamp, FOUND)
    monkeypatch.setattr("datamodules.inspection.checks.version", lambda package: "99.0")
    assert CheckCache(path, settings).get(stamp) is None


@pytest.mark.e2e
def test_a_killed_run_is_taken_up_where_it_was(
    tmp_path: Path, write_clip: Callable[[Path, int], Path], settings: MediaSettings
) -> None:
    paths = [str(write_clip(tmp_path / "clips" / f"{number:03d}.mp4", number)) for number in range(120)]
    cache = tmp_path / "checks.jsonl"
    # Forked, to be quick: what is killed is the parent of the decoding process, as a user's kill does.
    run = multiprocessing.get_context("fork").Process(
        target=check_clips, args=(paths, settings, CheckCache(cache, settings), 1, 60.0)
    )
    run.start()
    while run.is_alive() and not (cache.exists() and cache.read_bytes().count(b"\n") >= 3):
        time.sleep(0.002)
    run.kill()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    num_done = cache.read_bytes().count(b"\n")
    assert 3 <= num_done < 120

    checks, num_known = check_clips(paths, settings, CheckCache(cache, settings), num_workers=1, timeout_seconds=60)
    assert num_known == num_done
    assert list(checks) == paths
    assert {check.num_frames for check in checks.values()} == {10}
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == paths


def test_a_clip_that_takes_too_long_is_undecodable_for_now(
    tmp_path: Path, write_clip: Callable[[Path, int], Path], settings: MediaSettings
) -> None:
    path, cache = str(write_clip(tmp_path / "1.mp4", 1)), CheckCache(tmp_path / "checks.jsonl", settings)
    checks, _ = check_clips([path], settings, cache, num_workers=1, timeout_seconds=1e-6)
    assert checks[path].failure == "timed out after 1e-06 s"
    assert not cache.path.exists()
