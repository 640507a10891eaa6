"""The app in a real browser: a clip goes in, and what two models say appears while they write."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By

from datamodules.rationale import split_sentences
from tests.conftest import RATIONALE
from tests.tools.app.conftest import RESPONSE, App, Patient
from tests.tools.chromium import NEEDS_CHROMIUM, requests, texts, until
from tests.tools.report.conftest import GOLDEN_CLIP
from tests.tools.report.test_browser import HOSTILE
from tools.app.line import Line

pytestmark = [pytest.mark.e2e, NEEDS_CHROMIUM]

_RECORD_STATES = """
window.seen = [];
new MutationObserver(() => seen.push(document.querySelector('#card-1-full .writing')?.textContent ?? ''))
  .observe(document.body, {childList: true, subtree: true, characterData: true});
"""
_CLICK = """
const seen = [...document.querySelectorAll('button')].filter(e => e.checkVisibility());
const button = seen.findLast(e => [e.textContent.trim(), e.ariaLabel].includes(arguments[0]));
button?.click();
return Boolean(button);
"""
_COUNT_RECORDED = """
const start = MediaRecorder.prototype.start;
MediaRecorder.prototype.start = function (...options) {
  this.addEventListener('dataavailable', ({data}) => { window.recorded = (window.recorded ?? 0) + (data.size > 0); });
  return start.apply(this, options);
};
"""
_OF_GRADIO = "Method not implemented."
"""Gradio's client warns so when it closes a stream of its own that has ended."""


def open_page(chromium: webdriver.Chrome, address: str) -> webdriver.Chrome:
    chromium.get(address)
    until(chromium, lambda driver: driver.find_elements(By.CSS_SELECTOR, "input[type=file]"))
    return chromium


@pytest.fixture
def browser(chromium: webdriver.Chrome, served: App) -> webdriver.Chrome:
    return open_page(chromium, served.address)


def choose(browser: webdriver.Chrome, path: Path) -> None:
    browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(path))


def explain_again(browser: webdriver.Chrome) -> None:
    browser.execute_script("document.querySelector('article').id = 'before'")
    assert browser.execute_script(_CLICK, "Explain it again")


def all_done(browser: webdriver.Chrome, count: int) -> bool:
    return len(texts(browser, "article[data-done]")) == count


def console(browser: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if _OF_GRADIO not in entry["message"]]


def test_a_clip_is_explained_by_two_models_while_they_write(browser: webdriver.Chrome, served: App) -> None:
    browser.execute_script(_RECORD_STATES)
    choose(browser, GOLDEN_CLIP)
    until(browser, lambda driver: all_done(driver, 6))
    assert texts(browser, "h2") == ["learnt", "untrained"]
    assert texts(browser, "h3") == 2 * ["the whole clip", "without sound", "without pictures"]
    assert texts(browser, "#card-0-full .sentence .text") == list(split_sentences(RATIONALE))
    assert len(texts(browser, "#card-0-full .sentence[style] small .emotion")) >= 3, "each is read as an emotion"
    assert texts(browser, "#card-0-full dd:first-of-type > *") == ["anger", "angry"]
    for mode in ("full", "video_only", "audio_only"):
        assert texts(browser, f"#card-0-{mode} pre") == [RESPONSE]
    (babble,) = texts(browser, "#card-1-full pre")
    written = list(filter(None, dict.fromkeys(browser.execute_script("return seen"))))
    assert len(written) >= 2 and all(text.rstrip("\ufffd") in babble for text in written), "it grows before one's eyes"
    widths = "return [...document.querySelectorAll('#clip img')].map(e => e.naturalWidth)"
    until(browser, lambda driver: len(driver.execute_script(widths)) == 2 and min(driver.execute_script(widths)) > 100)
    until(browser, lambda driver: driver.execute_script("return document.querySelector('#clip video').duration") > 0.5)


def test_nothing_is_asked_of_others(chromium: webdriver.Chrome, served: App) -> None:
    requests(chromium), chromium.get_log("browser")
    browser = open_page(chromium, served.address)
    choose(browser, GOLDEN_CLIP)
    until(browser, lambda driver: all_done(driver, 6))
    asked = requests(browser)
    assert any("/gradio_api/upload" in url for url in asked)
    assert [url for url in asked if not url.startswith((served.address, "blob:"))] == []
    assert console(browser) == []


def test_what_does_not_decode_says_so(browser: webdriver.Chrome, served: App, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(GOLDEN_CLIP.read_bytes()[:2000])
    choose(browser, cut)
    (problem,) = until(browser, lambda driver: texts(driver, "#clip [role=alert]"))
    assert problem.startswith("⚠ The clip was not decoded: ") and str(served.temporary) not in problem
    assert texts(browser, "article") == []


def test_a_file_that_is_too_large_is_named_so(browser: webdriver.Chrome, tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(1_100_000))
    choose(browser, large)
    until(browser, lambda driver: any("maximum" in text for text in texts(driver, ".toast-body")))


def test_a_recording_is_explained(browser: webdriver.Chrome) -> None:
    browser.execute_script(_COUNT_RECORDED)
    for label in ("Record", "Click to Access Webcam", "start recording"):
        until(browser, lambda driver, label=label: driver.execute_script(_CLICK, label))
    # Of five times 0.2 s; Gradio takes what has come from the encoder, and a busy machine's takes a while to begin.
    until(browser, lambda driver: driver.execute_script("return window.recorded >= 5"))
    assert browser.execute_script(_CLICK, "start recording"), "the same button stops it"
    until(browser, lambda driver: all_done(driver, 6) or texts(driver, "[role=alert]"))
    assert texts(browser, "[role=alert]") == []
    assert texts(browser, "#card-0-full .sentence .text") == list(split_sentences(RATIONALE))


def test_it_is_explained_again(browser: webdriver.Chrome) -> None:
    choose(browser, GOLDEN_CLIP)
    until(browser, lambda driver: all_done(driver, 6))
    explain_again(browser)
    until(browser, lambda driver: not texts(driver, "#before") and all_done(driver, 6))
    assert texts(browser, "#card-0-full pre") == [RESPONSE]


@pytest.fixture
def patiently(patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an app whose model waits for a sign."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from tools.app.page import Page  # Gradio makes a directory when it is imported

    line = Line([patient], timeout_seconds=200.0)
    application = Page(line, [HOSTILE]).application(1, ["127.0.0.1"])
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        patient.may_end.set()
        server.should_exit = True
        thread.join(60)
    line.close()


def test_clips_wait_for_each_other_and_stop_with_their_reader(
    chromium: webdriver.Chrome, patiently: str, patient: Patient
) -> None:
    choose(open_page(chromium, patiently), GOLDEN_CLIP)
    until(chromium, lambda driver: "patiently" in texts(driver, "#card-0-full .writing"))
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    choose(open_page(chromium, patiently), GOLDEN_CLIP)
    until(chromium, lambda driver: "queue: 1/1" in "".join(texts(driver, "#clip")))
    second = chromium.current_window_handle
    chromium.switch_to.window(first)
    chromium.get("about:blank")
    chromium.switch_to.window(second)
    until(chromium, lambda driver: "patiently" in texts(driver, "#card-0-full .writing"))
    explain_again(chromium)
    until(
        chromium, lambda driver: not texts(driver, "#before") and "patiently" in texts(driver, "#card-0-full .writing")
    )
    chromium.close()
    chromium.switch_to.window(first)


def test_what_a_model_writes_stays_text(chromium: webdriver.Chrome, patiently: str, patient: Patient) -> None:
    said = [{"text": HOSTILE, "emotions": [HOSTILE]}]
    patient.state |= {"sentences": said, "completion": HOSTILE, "answer": HOSTILE, "prediction": None, "judged": "fear"}
    patient.may_end.set()
    choose(open_page(chromium, patiently), GOLDEN_CLIP)
    until(chromium, lambda driver: all_done(driver, 3))
    for selector in ("h2", "#card-0-full .text", "#card-0-full small .emotion", "#card-0-full q", "#card-0-full pre"):
        assert texts(chromium, selector) == [HOSTILE], selector
    assert chromium.title == "Explain a clip" and texts(chromium, "article script, article b:not([class])") == []
