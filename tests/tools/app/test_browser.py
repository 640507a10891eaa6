"""The app in a real browser: a clip goes in, and what two models say appears while they write."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from datamodules.rationale import split_sentences
from tests.conftest import RATIONALE
from tests.tools.app.conftest import RESPONSE
from tests.tools.chromium import NEEDS_CHROMIUM
from tests.tools.report.conftest import GOLDEN_CLIP
from tests.tools.report.test_browser import requests

pytestmark = [pytest.mark.e2e, NEEDS_CHROMIUM]

ROOT = Path(__file__).parents[3]
_RECORD_STATES = """
window.seen = [];
new MutationObserver(() => seen.push(document.querySelector('#card-1-full .writing')?.textContent ?? ''))
  .observe(document.getElementById('said'), {childList: true, subtree: true});
"""


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the app keeps clips until they are decoded."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(learnt: Path, untrained: Path, tiny_models: Path, temporary: Path) -> Iterator[str]:
    """Of an app with two models; it must leave nothing behind when it is told to end."""
    options = ["--model", learnt, "--other", untrained, "--verifier", tiny_models / "verifier", "--port", "0"]
    limits = ["--max_new_tokens", "160", "--temperature", "0", "--max_megabytes", "1"]
    process = subprocess.Popen(
        [sys.executable, "main.py", "app", *map(str, options), *limits],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), line
    yield line.split()[0]
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    assert not list(temporary.iterdir())


@pytest.fixture
def browser(chromium: webdriver.Chrome, address: str) -> webdriver.Chrome:
    chromium.get(address)
    chromium.get_log("browser"), chromium.get_log("performance")
    return chromium


def until(browser: webdriver.Chrome, condition: Callable[[webdriver.Chrome], Any]) -> Any:
    return WebDriverWait(browser, 30, poll_frequency=0.05).until(condition)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
    )


def status(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "status").text


def choose(browser: webdriver.Chrome, path: Path) -> None:
    browser.find_element(By.ID, "file").send_keys(str(path))


def test_a_clip_is_explained_by_two_models_while_they_write(browser: webdriver.Chrome, address: str) -> None:
    browser.execute_script(_RECORD_STATES)
    choose(browser, GOLDEN_CLIP)
    until(browser, lambda driver: status(driver) == "Done.")
    assert texts(browser, "h2") == ["learnt", "untrained"]
    assert texts(browser, "h3") == 2 * ["the whole clip", "without sound", "without pictures"]
    assert texts(browser, "#card-0-full .sentence .text") == list(split_sentences(RATIONALE))
    assert len(texts(browser, "#card-0-full .sentence.coloured .read .emotion")) >= 3, "each is read as an emotion"
    assert texts(browser, "#card-0-full dd:first-of-type > *") == ["anger", "angry"]
    assert texts(browser, "#card-0-full pre") == [RESPONSE]
    assert texts(browser, "#card-0-video_only pre") == texts(browser, "#card-0-audio_only pre") == [RESPONSE]
    (babble,) = texts(browser, "#card-1-full pre")
    written = list(filter(None, dict.fromkeys(browser.execute_script("return seen"))))
    assert len(written) >= 2 and all(text.rstrip("\ufffd") in babble for text in written), "it grows before one's eyes"
    widths = "return [...document.querySelectorAll('#pictures img')].map(e => e.naturalWidth)"
    until(browser, lambda driver: min(driver.execute_script(widths)) > 100)
    assert {url.split("?")[0] for url in requests(browser) if not url.startswith("blob:")} == {f"{address}explain"}
    assert browser.get_log("browser") == []


def test_what_does_not_decode_says_so(browser: webdriver.Chrome, temporary: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(GOLDEN_CLIP.read_bytes()[:2000])
    choose(browser, cut)
    problem = browser.find_element(By.ID, "problem")
    until(browser, lambda driver: problem.text.startswith("⚠ The clip was not decoded: "))
    assert str(temporary) not in problem.text and not list(temporary.rglob("tmp*"))
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(1_100_000))
    choose(browser, large)
    until(browser, lambda driver: problem.text == "⚠ The file has 1.1 MB; 1 are taken at most.")


def test_a_recording_is_explained(browser: webdriver.Chrome) -> None:
    record = browser.find_element(By.ID, "record")
    record.click()
    until(browser, lambda driver: record.text == "■ Stop")
    video = browser.find_element(By.TAG_NAME, "video")
    until(browser, lambda driver: driver.execute_script("return arguments[0].currentTime", video) > 0.5)
    record.click()
    until(browser, lambda driver: status(driver) == "Done." or driver.find_element(By.ID, "problem").text)
    assert browser.find_element(By.ID, "problem").text == ""
    assert texts(browser, "#card-0-full .sentence .text") == list(split_sentences(RATIONALE))


def ask(address: str, **options: Any) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, **options)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_nothing_but_the_page_is_served(address: str) -> None:
    as_media = {"Content-Type": "application/octet-stream"}
    assert ask(address) == 200
    assert ask(address, headers={"Host": "attacker.example"}) == 400, "a name that was made to lead here"
    assert ask(f"{address}explain", data=b"x", headers={"Content-Type": "text/plain"}) == 415, "of a foreign page"
    assert ask(f"{address}explain", method="OPTIONS") == 405, "which may not ask for another type, either"
    assert ask(f"{address}explain", data=bytes(1_100_000), headers=as_media) == 413
    for path in ("etc/passwd", "..%2f..%2fetc/passwd", "file=/etc/passwd", "static/../main.py"):
        assert ask(address + path) == 404
