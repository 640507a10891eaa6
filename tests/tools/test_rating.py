"""`python main.py rate`: what the page holds, and in a browser what a rater sees, presses and exports."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from datamodules.emotions import DFEW_TAXONOMY
from datamodules.files.writing import write_rows
from lightning_modules.metrics.predictions import read_predictions
from tests.tools.chromium import NEEDS_CHROMIUM
from tools.agreement import agreement
from tools.judge_table import judges
from tools.rating.rating import rate, rating_data

HOSTILE = "He says </script><script>document.title='owned'</script> aloud."


def predictions(folder: Path, name: str, count: int = 6, **changes: Any) -> str:
    rows = [
        {
            "id": f"clip{i}",
            "target": "happiness",
            "prediction": "happiness",
            "format": 1,
            "accuracy": 1,
            "explanation": None,
            "sentences": [{"text": text, "emotions": None, "probabilities": None}],
            "judged": "happiness",
            "judge": "oracle",
            "taxonomy": "dfew",
            "completion": f"<think>{text}</think><answer>happy</answer>",
            **changes,
        }
        for i in range(count)
        for text in [HOSTILE if i == 2 else f"{name} says that {i} grins."]
    ]
    write_rows(folder / f"{name}.jsonl", rows)
    return str(folder / f"{name}.jsonl")


@pytest.mark.unit
def test_the_same_clips_of_each_run_in_an_order_of_the_seed(tmp_path: Path) -> None:
    runs = {name: read_predictions(predictions(tmp_path, name)) for name in ("first", "second")}
    data = rating_data(runs, 4, seed=1, title="?")
    clips = {name: {item["id"] for item in data["items"] if item["run"] == name} for name in runs}
    assert clips["first"] == clips["second"] and len(clips["first"]) == 4
    assert data == rating_data(runs, 4, seed=1, title="?")
    assert data["items"] != rating_data(runs, 4, seed=2, title="?")["items"]
    assert data["classes"] == list(DFEW_TAXONOMY.classes)
    (tmp_path / "again").mkdir()
    again = {"first": runs["first"], "second": read_predictions(predictions(tmp_path / "again", "other"))}
    assert rating_data(again, 4, seed=1, title="?")["digest"] != data["digest"], "the same names, other rationales"


@pytest.mark.unit
def test_what_cannot_be_rated_together_is_refused(tmp_path: Path) -> None:
    first = predictions(tmp_path, "first")
    silent = predictions(tmp_path, "silent", sentences=[], completion="<answer>happy</answer>")
    other = predictions(tmp_path, "other", taxonomy="mafw")
    for runs, message in (
        ({}, "0 runs"),
        ({"a": first, "b": silent}, "No clip is explained by all of a, b"),
        ({"a": first, "b": other}, "different taxonomies .a: dfew, b: mafw"),
    ):
        with pytest.raises(ValueError, match=message):
            rate(runs, str(tmp_path / "out"))


@pytest.fixture
def shown(browser: webdriver.Chrome, tmp_path: Path) -> Callable[[], str]:
    runs = {name: predictions(tmp_path, name) for name in ("first", "second")}
    browser.get(rate(runs, str(tmp_path / "out"), num_clips=6).as_uri())
    return lambda: browser.find_element(By.ID, "rationale").text


@pytest.mark.e2e
@NEEDS_CHROMIUM
def test_rating_by_keys_and_exporting(
    browser: webdriver.Chrome, shown: Callable[[], str], downloads: Path, tmp_path: Path
) -> None:
    body = browser.find_element(By.TAG_NAME, "body")
    said = []
    for i in range(12):
        said.append(shown())
        body.send_keys("0" if i == 3 else "4" if "first" in said[-1] else "1")
    assert len(set(said)) == 11 and HOSTILE in said, "two runs say the hostile one alike"
    assert browser.title == "Which emotion does this explanation speak of?"
    assert browser.find_element(By.ID, "count").text == "12 of 12, 12 rated"
    body.send_keys(Keys.ARROW_LEFT)
    assert shown() == said[10]
    browser.refresh()
    assert browser.find_element(By.ID, "count").text.endswith("12 rated"), "the browser has kept them"
    browser.find_element(By.ID, "name").send_keys("Anna 1")
    browser.find_element(By.ID, "export").click()
    files = [downloads / f"ratings_{run}_Anna_1.jsonl" for run in ("first", "second")]
    WebDriverWait(browser, 20).until(lambda _: all(file.exists() for file in files))
    first, second = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert len(first) == len(second) == 6 and {own["judge"] for own in first} == {"human:Anna 1"}
    assert sum(own["emotion"] is None for own in first + second) == 1
    assert [log["message"] for log in browser.get_log("browser")] == []

    result = agreement(str(files[0]), str(tmp_path / "first.jsonl"), str(tmp_path / "agreement"))
    assert result["num_clips"] == 6
    table = judges({"first": str(tmp_path / "first.jsonl")}, {"first": [str(files[0])]}, str(tmp_path / "judges"))
    assert list(table["runs"]["first"]) == ["oracle", "human:Anna 1"]


@pytest.mark.e2e
@NEEDS_CHROMIUM
def test_pages_of_other_rationales_share_no_ratings(
    browser: webdriver.Chrome, shown: Callable[[], str], tmp_path: Path
) -> None:
    browser.find_element(By.TAG_NAME, "body").send_keys("1")
    (tmp_path / "other").mkdir()
    runs = {name: predictions(tmp_path / "other", f"{name}_else") for name in ("first", "second")}
    browser.get(rate(runs, str(tmp_path / "out_else"), num_clips=6).as_uri())
    assert browser.find_element(By.ID, "count").text == "1 of 12, 0 rated"
    held = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: arguments[0]}))"
    for is_repeated in (False, True, True):
        browser.execute_script(held, is_repeated)
    assert browser.find_element(By.ID, "count").text == "2 of 12, 1 rated", "a key held down"
