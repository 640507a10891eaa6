"""The report in a real browser, from disk: what a reader sees and what the keys do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from datamodules.files.writing import write_rows
from tests.tools.chromium import (
    NEEDS_CHROMIUM,
    attributes,
    choose,
    focused,
    heading,
    open_view,
    press,
    requests,
    texts,
    until,
)
from tools.report.report import report

pytestmark = [pytest.mark.e2e, NEEDS_CHROMIUM]

NUM_CLIPS = 400
HOSTILE = (
    "<script>document.title='owned'</script> </script><img src=x onerror=\"document.title='owned'\"> "
    "\"quoted\" 'single' &lt;b&gt; \u202egnp.exe \u05e9\u05dc\u05d5\u05dd 😀 {{x}} ${y} <!-- \u2028 end."
)
WEIRD_ID = "a/b?c#d&e=%20 <i>é</i>"
Rows = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def pages(row: Rows, sentence: Rows, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report over two runs: clips of two targets, a wrong, an incoherent and two hostile ones."""
    rows = [row(f"clip {i}", target="fear" if i % 4 == 3 else "happiness") for i in range(NUM_CLIPS - 4)]
    for own in rows:
        if own["target"] == "fear":
            own |= {"prediction": "fear", "judged": "fear"}
    rows.insert(0, row("seen", media=str(clip)))
    rows.insert(1, row("wrong", prediction="anger", judged="anger", accuracy=0.0, completion=None))
    said = [sentence(HOSTILE, "fear", "anger")]
    rows.insert(2, row(WEIRD_ID, judged="fear", sentences=said, explanation=0.0, media="/gone.mp4", transcript=HOSTILE))
    rows.insert(3, row("silent", prediction=None, judged=None, sentences=[], completion=f"no tags {HOSTILE}"))
    others = [own | {"prediction": "anger", "accuracy": 0.0} for own in rows[:2]]
    root = tmp_path_factory.mktemp("report")
    files = {"first": rows, "second": others}
    for name, own in files.items():
        write_rows(root / name / "predictions.jsonl", own)
    paths = [str(root / name / "predictions.jsonl") for name in files]
    return report(paths, output=str(root), num_frames=2, num_workers=1).as_uri()


def counted(browser: webdriver.Chrome) -> str:
    return texts(browser, ".counted")[0].removesuffix("clear filters")


def test_the_overview_shows_figures_alarms_and_matrices(browser: webdriver.Chrome, pages: str) -> None:
    open_view(browser, pages, ".figures")
    assert texts(browser, ".figures tbody th a") == ["first", "second"]
    # By hand, of 400 clips: two answers are not the target, three verdicts not the target, two verdicts not the answer.
    # 99.25 is rounded to even.
    assert texts(browser, ".figures tbody tr:first-child .rate b")[0] == "99.5"
    assert texts(browser, ".figures tbody tr:first-child .rate b")[2:] == ["99.2", "99.5", "99.2"]
    assert texts(browser, ".figures tbody tr:first-child .count") == [str(NUM_CLIPS), "1", "1", "0"]
    assert texts(browser, ".notes .note") == [f"{NUM_CLIPS - 1} of {NUM_CLIPS} clips have no media file at hand: no "
                                              "pictures and no player."]  # fmt: skip
    assert texts(browser, "figcaption") == ["Answer × target", "Explanation × target", "Explanation × answer"]
    assert "shared sentences" in "".join(texts(browser, ".alarms th"))
    browser.find_element(By.CSS_SELECTOR, ".matrix a[title^='target happiness, answer anger:']").click()
    until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, ".clips a"))
    assert texts(browser, ".clips .id") == ["wrong"]
    assert [url.partition("#")[0] for url in requests(browser)] == [pages], "nothing but the page itself"
    assert browser.get_log("browser") == []


def test_filters_and_search_change_the_list(browser: webdriver.Chrome, pages: str) -> None:
    open_view(browser, f"{pages}#/clips", ".clips a")
    assert counted(browser) == f"400 of {NUM_CLIPS} clips"
    for label, value, number in (
        ("target", "fear", 99), ("answer", "unknown", 1), ("judged", "invalid", 1), ("answer is", "wrong", 2),
        ("answer is", "differ", 1), ("coherence", "incoherent", 3), ("coherence", "answer", 2),
        ("coherence", "target", 3), ("coherence", "coherent", 397),
    ):  # fmt: skip
        choose(browser, label, value)
        until(browser, lambda driver, wanted=f"{number} of 400 clips": counted(driver) == wanted)
        choose(browser, label, "")
        until(browser, lambda driver: counted(driver) == "400 of 400 clips")
    choose(browser, "run", "1")
    until(browser, lambda driver: counted(driver) == "2 of 2 clips")
    choose(browser, "run", "0")
    press(browser, "/")
    press(browser, "GNP.exe")
    until(browser, lambda driver: counted(driver) == "2 of 400 clips")
    assert texts(browser, ".clips .id") == [WEIRD_ID, "silent"]
    choose(browser, "order", "lowest")
    press(browser, Keys.ESCAPE)
    assert browser.get_log("browser") == []


def test_hundreds_of_clips_are_listed_as_they_come_into_sight(browser: webdriver.Chrome, pages: str) -> None:
    open_view(browser, f"{pages}#/clips", ".clips a")
    assert len(texts(browser, ".clips .id")) < NUM_CLIPS, "not all rows are made at once"

    def scroll_to_the_end(driver: webdriver.Chrome) -> bool:
        driver.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
        return len(texts(driver, ".clips .id")) == NUM_CLIPS

    until(browser, scroll_to_the_end)
    ids = texts(browser, ".clips .id")
    assert len(set(ids)) == NUM_CLIPS and ids[-1] == f"clip {NUM_CLIPS - 5}"


def test_a_clip_page_shows_what_the_file_says(browser: webdriver.Chrome, pages: str, clip: Path) -> None:
    open_view(browser, f"{pages}#/clip?id=seen", ".runs")
    assert texts(browser, ".card h2") == ["first", "second"]
    assert texts(browser, ".card:first-child .sentence .text") == ["She grins.", "She sits."]
    assert texts(browser, ".card:first-child .sentence .read .emotion") == ["joy", "neutral"]
    assert attributes(browser, ".card:first-child .sentence", "class") == ["sentence matching", "sentence neutral"]
    assert [text[0] for text in texts(browser, ".card:first-child .sentence .symbol")] == ["✓", "·"]
    assert texts(browser, ".card:first-child .rewards b") == ["1.00", "1.00", "1.00"]
    assert texts(browser, ".card:last-child .rewards b") == ["1.00", "0.00", "1.00"]
    assert texts(browser, ".card:first-child dd .pair") == ["= answer", "= target"]
    assert texts(browser, ".card:last-child dd .pair") == ["≠ answer", "= target"]
    assert texts(browser, ".card:last-child pre") == ["<think>She grins. She sits.</think><answer>happiness</answer>"]
    picture = browser.find_element(By.CSS_SELECTOR, ".pictures img")
    until(browser, lambda driver: driver.execute_script("return arguments[0].naturalWidth", picture) > 100)
    assert browser.find_element(By.TAG_NAME, "video").get_attribute("src") == clip.resolve().as_uri()
    assert browser.get_log("browser") == []


def test_the_player_reads_the_file_that_is_linked(browser: webdriver.Chrome, pages: str) -> None:
    open_view(browser, f"{pages}#/clip?id=seen", "video")
    player = browser.find_element(By.TAG_NAME, "video")
    browser.execute_script("arguments[0].load(); arguments[0].preload = 'metadata'", player)
    until(browser, lambda driver: driver.execute_script("return arguments[0].readyState", player) >= 1)
    assert browser.execute_script("return arguments[0].duration", player) == pytest.approx(1.8, abs=0.1)
    assert browser.get_log("browser") == [], "the content security policy allows it"


def test_hostile_text_stays_text(browser: webdriver.Chrome, pages: str) -> None:
    for identifier, selector in ((WEIRD_ID, ".sentence .text"), ("silent", ".card pre")):
        open_view(browser, f"{pages}#/clip?{urlencode({'id': identifier})}", selector)
        assert heading(browser) == identifier
        assert texts(browser, selector)[0].removeprefix("no tags ") == HOSTILE
        assert texts(browser, ".transcript q") == [HOSTILE] * (identifier == WEIRD_ID)
        assert not browser.find_elements(By.CSS_SELECTOR, "main script, main img[src=x]")
        assert "owned" not in browser.title
    assert "/gone.mp4" not in "".join(requests(browser))
    assert browser.get_log("browser") == []


def test_probabilities_appear_on_focus_and_on_hover(browser: webdriver.Chrome, pages: str) -> None:
    open_view(browser, f"{pages}#/clip?id=seen", ".runs")
    tooltip = browser.find_element(By.ID, "tooltip")
    assert not tooltip.is_displayed()
    first, second = browser.find_elements(By.CSS_SELECTOR, ".card:first-child .sentence")
    browser.execute_script("arguments[0].focus()", first)
    assert tooltip.is_displayed()
    assert texts(browser, "#tooltip tr:first-child th, #tooltip tr:first-child .number") == ["joy target", "0.700"]
    assert len(texts(browser, "#tooltip tr")) == 6
    press(browser, Keys.ESCAPE)
    assert not tooltip.is_displayed() and "#/clip?" in browser.current_url, "the first Esc closes, and does not go back"
    webdriver.ActionChains(browser).move_to_element(second).perform()
    assert tooltip.is_displayed()
    assert texts(browser, "#tooltip tr:first-child th") == ["neutral"]


def test_the_keys_lead_through_the_clips(browser: webdriver.Chrome, pages: str) -> None:
    open_view(browser, f"{pages}#/clips?target=happiness", ".clips a")
    press(browser, "j")
    press(browser, "j")
    until(browser, lambda driver: focused(driver, "data-id") == "wrong")
    press(browser, Keys.ENTER)
    until(browser, lambda driver: heading(driver) == "wrong")
    for key, wanted in (("j", WEIRD_ID), (Keys.ARROW_RIGHT, "silent"), ("k", WEIRD_ID), (Keys.ARROW_LEFT, "wrong")):
        press(browser, key)
        until(browser, lambda driver, wanted=wanted: heading(driver) == wanted)
    press(browser, "?")
    assert browser.find_element(By.ID, "keys").is_displayed()
    press(browser, Keys.ESCAPE)
    until(browser, lambda driver: not driver.find_element(By.ID, "keys").is_displayed())
    press(browser, Keys.ESCAPE)
    until(browser, lambda driver: focused(driver, "data-id") == "wrong")  # back where one came from
    press(browser, Keys.ESCAPE)
    until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, ".figures"))
    press(browser, "/")
    until(browser, lambda driver: focused(driver, "id") == "search")
    assert browser.get_log("browser") == []


def test_dark_and_light(browser: webdriver.Chrome, pages: str) -> None:
    def paper() -> str:
        return browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")

    for scheme, mine, other in (
        ("light", "rgb(246, 247, 249)", "rgb(20, 23, 27)"), ("dark", "rgb(20, 23, 27)", "rgb(246, 247, 249)"),
    ):  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        open_view(browser, pages, ".figures")
        assert paper() == mine
        browser.find_element(By.ID, "theme").click()
        assert paper() == other


def test_an_address_of_no_clip_is_answered(browser: webdriver.Chrome, pages: str) -> None:
    open_view(browser, f"{pages}#/clip?id=nothing&run=99", "h1")
    assert heading(browser) == "No such clip"
    assert browser.get_log("browser") == []


def test_a_file_without_targets_judge_and_verifier(browser: webdriver.Chrome, row: Rows, tmp_path: Path) -> None:
    none = dict.fromkeys(("target", "accuracy", "explanation", "judged", "judge"))
    unread = [{"text": "She grins.", "emotions": None, "probabilities": None}]
    path = tmp_path / "predictions.jsonl"
    write_rows(path, [row("1", **none), row("2", **none, sentences=unread)])
    address = report([str(path)], output=str(tmp_path)).as_uri()
    open_view(browser, address, ".figures")
    assert texts(browser, ".figures .rate") == ["–"] * 5 and not texts(browser, "figcaption")
    open_view(browser, f"{address}#/clips", ".clips a")
    assert texts(browser, ".filters label > span") == ["answer", "answer is", "search"]
    open_view(browser, f"{address}#/clip?id=2", ".card")
    assert texts(browser, ".card .sentence .text") == ["She grins."] and not texts(browser, ".card .mark")
    assert browser.get_log("browser") == []


def test_sentences_say_whether_they_are_true_of_the_clip(
    browser: webdriver.Chrome, row: Rows, sentence: Rows, tmp_path: Path
) -> None:
    cues = ("smiles with raised cheeks", "looks pale with frozen eyes", "claps and bounces on both feet", "sings")
    said = [sentence(f"She {cue}.", "joy") for cue in cues]
    write_rows(tmp_path / "p.jsonl", [row("1", media="Clip/1.mp4", sentences=said)])
    clip = {"media": "Clip/1.mp4", "label": "happiness", "face_emotion": "fear", "voice_emotion": "happiness"}
    (tmp_path / "synthetic.json").write_text(json.dumps({"clips": [clip]}))
    page = report([str(tmp_path / "p.jsonl")], output=str(tmp_path), truth=str(tmp_path / "synthetic.json")).as_uri()
    open_view(browser, page, "#grounding")
    assert texts(browser, "[aria-labelledby=grounding] tbody tr:first-child td") == ["50.0 1 of 2"]
    open_view(browser, f"{page}#/clip?id=1", ".sentence")
    assert texts(browser, ".sentence .support") == [
        "✗ untrue of the clip",
        "✓ true of the clip",
        "? nothing supports it",
    ]
    assert texts(browser, ".target")[1] == "face fearvoice happiness"
    assert browser.get_log("browser") == []


def test_sentences_show_what_they_rest_on(browser: webdriver.Chrome, row: Rows, sentence: Rows, tmp_path: Path) -> None:
    rests = {"pictures": -0.26, "sound": 1.24, "both": None}
    said = [sentence("She smiles.", "joy") | {"reliance": rests}, sentence("She sits.", "neutral")]
    write_rows(tmp_path / "p.jsonl", [row("1", sentences=said)])
    open_view(browser, f"{report([str(tmp_path / 'p.jsonl')], output=str(tmp_path)).as_uri()}#/clip?id=1", ".sentence")
    assert [own.strip() for own in texts(browser, ".sentence .reliance b")] == ["−0.3", "+1.2"]
    assert [float(value) for value in attributes(browser, ".sentence .reliance meter", "value")] == [0.0, 1.24]
    assert texts(browser, ".legend")[-1].startswith("Bars: what a sentence rests on")
    assert browser.get_log("browser") == []
