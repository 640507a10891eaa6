"""The page of a training run in a real browser, from disk."""

from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from lightning_modules.metrics.predictions import PredictedSentence
from lightning_modules.metrics.rollouts import RolloutFile
from lightning_modules.metrics.seeds import student_quantile
from tests.rollout_groups import completion, group, write_groups
from tests.tools.chromium import NEEDS_CHROMIUM, attributes, choose, heading, open_view, press, requests, texts, until
from tools.report.report import report

pytestmark = [pytest.mark.e2e, NEEDS_CHROMIUM]

HOSTILE = (
    "<script>document.title='owned'</script> </script><img src=x onerror=\"document.title='owned'\"> \u202egnp.exe "
    "\u05e9\u05dc\u05d5\u05dd ${y} <!-- \u2028 end."
)
WEIRD_ID = "a/b?c#d&e=%20 <i>é</i>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page of 100 steps of two groups: one clip that is there every tenth step, one hostile."""
    run = tmp_path_factory.mktemp("run")
    steps = []
    for step in range(100):
        wrong = completion(0.0, "He scowls.", "anger", prediction="anger")
        clip = "often" if step % 10 == 0 else f"clip{step}"
        own = group(step, clip, completion(1 + step / 100, f"She grins {step}.", tokens=20 - step // 10), wrong)
        steps.append([own, group(step, f"other{step}", completion(3.0 if step == 50 else 1.0))])
    said = (PredictedSentence(HOSTILE, None),)
    steps[99][1] = group(
        99, WEIRD_ID, completion(-1.0, completion=HOSTILE, prediction=None, sentences=said), transcript=HOSTILE,
        target="fear",
    )  # fmt: skip
    write_groups(run, RolloutFile(1, 0, 0, 1), *steps)
    return report(rollouts=str(run), output=str(run), num_frames=0).as_uri()


def counted(browser: webdriver.Chrome) -> str:
    return texts(browser, ".counted")[0].removesuffix("clear filters")


def type_into(browser: webdriver.Chrome, label: str, value: str) -> None:
    field = browser.find_element(By.XPATH, f"//label[span[text()='{label}']]/input")
    field.clear()
    field.send_keys(value, Keys.ENTER)


def test_the_overview_has_a_curve_of_each_figure(browser: webdriver.Chrome, page: str) -> None:
    open_view(browser, page, ".curve")
    assert texts(browser, "h1")[0].startswith("100 steps, 200 groups, 300 completions ")
    names = [text.split()[0] for text in texts(browser, "figcaption")]
    assert names == [
        "reward", "spread", "reward/accuracy", "reward/explanation", "right", "distinct", "tokens", "truncated",
    ]  # fmt: skip
    assert len(attributes(browser, ".curve polyline", "points")[0].split()) == 100
    assert texts(browser, ".curve small")[7] == "0 to 0, steps 0 to 99"
    assert [url.partition("#")[0] for url in requests(browser)] == [page], "nothing but the page itself"
    browser.find_element(By.LINK_TEXT, "the most divided groups").click()
    until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, ".clips a"))
    assert texts(browser, ".clips .id")[:2] == ["clip99", "clip98"]
    assert browser.get_log("browser") == []


def test_filters_orders_and_search(browser: webdriver.Chrome, page: str) -> None:
    open_view(browser, f"{page}#/groups", ".clips a")
    assert counted(browser) == "200 of 200 groups"
    for label, value, number in (
        ("target", "fear", 1), ("answers are", "right", 99), ("answers are", "some", 100), ("answers are", "wrong", 1),
    ):  # fmt: skip
        choose(browser, label, value)
        until(browser, lambda driver, wanted=f"{number} of 200 groups": counted(driver) == wanted)
        choose(browser, label, "")
        until(browser, lambda driver: counted(driver) == "200 of 200 groups")
    for order, first in (
        ("highest", "other50"), ("lowest", WEIRD_ID), ("divided", "clip99"), ("best", "other50"), ("worst", WEIRD_ID),
    ):  # fmt: skip
        choose(browser, "order", order)
        until(browser, lambda driver, first=first: texts(driver, ".clips .id")[0] == first)
    type_into(browser, "from step", "20")
    until(browser, lambda driver: counted(driver) == "160 of 200 groups")
    type_into(browser, "to step", "29")
    until(browser, lambda driver: counted(driver) == "20 of 200 groups")
    press(browser, Keys.ESCAPE)
    press(browser, "/")
    press(browser, "GRINS 2")
    until(browser, lambda driver: counted(driver) == "10 of 200 groups")
    assert browser.get_log("browser") == []


def test_a_group_shows_its_completions_the_best_first(browser: webdriver.Chrome, page: str) -> None:
    open_view(browser, f"{page}#/groups?order=divided", ".clips a")
    press(browser, "j")
    press(browser, Keys.ENTER)
    until(browser, lambda driver: heading(driver) == "clip99")
    assert texts(browser, ".card .rewards b") == ["1.99", "0"]
    assert texts(browser, ".card .sentence .text") == ["She grins 99.", "He scowls."]
    assert attributes(browser, ".card .sentence", "class") == ["sentence matching", "sentence contradicting"]
    assert [text[0] for text in texts(browser, ".card dd .mark")] == ["✓", "✗"]
    press(browser, "j")
    until(browser, lambda driver: heading(driver) == "clip98")
    press(browser, Keys.ESCAPE)
    focus = "return document.activeElement.innerText"
    until(browser, lambda driver: driver.execute_script(focus).startswith("no picture\nclip98"))  # where one came from
    assert browser.get_log("browser") == []


def test_a_clip_over_training(browser: webdriver.Chrome, page: str) -> None:
    open_view(browser, f"{page}#/clip?id=often", ".card")
    assert texts(browser, "section h2") == [f"step {step}" for step in range(0, 100, 10)]
    best = texts(browser, "section .card > .rationale .text")
    assert best == [f"She grins {step}." for step in range(0, 100, 10)]
    assert texts(browser, "details .text") == ["He scowls."] * 10
    browser.find_element(By.LINK_TEXT, "step 30").click()
    until(browser, lambda driver: texts(driver, "h1 small") == [" step 30"])
    assert browser.get_log("browser") == []


def test_two_windows_of_steps(browser: webdriver.Chrome, page: str) -> None:
    open_view(browser, f"{page}#/compare", ".figures")
    assert texts(browser, ".figures thead th")[1:3] == ["steps 0 to 9", "steps 90 to 99"]
    tokens = texts(browser, ".figures tbody tr:nth-child(7) td")
    # By hand: half of the groups have 20 and 10 tokens, at last 11 and 10; the others 10.
    assert tokens[0].startswith("12.5") and tokens[1].startswith("10.3")
    type_into(browser, "first: to step", "0")
    until(browser, lambda driver: texts(driver, ".figures thead th")[1] == "steps 0 to 0")
    # Step 0: groups of the mean rewards 0.5 and 1.
    half = student_quantile(0.975, 1) * 0.25
    assert texts(browser, ".figures tbody tr:first-child td")[0] == (
        f"0.75{0.75 - half:.3g} to {0.75 + half:.3g}2 groups".replace("-", "−")
    )
    type_into(browser, "second: from step", "200")
    until(browser, lambda driver: texts(driver, ".figures tbody tr:first-child td")[1] == "–")
    assert browser.get_log("browser") == []


def test_hostile_text_stays_text(browser: webdriver.Chrome, page: str) -> None:
    open_view(browser, f"{page}#/groups?order=lowest", ".clips a")
    browser.find_element(By.CSS_SELECTOR, ".clips a").click()
    until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, ".card pre"))
    assert heading(browser) == WEIRD_ID
    assert texts(browser, ".card pre") == texts(browser, ".card .sentence .text") == [HOSTILE]
    assert texts(browser, ".transcript q") == [HOSTILE]
    browser.find_element(By.LINK_TEXT, "this clip over training").click()
    until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, "section .card"))
    assert heading(browser) == WEIRD_ID and texts(browser, ".sentence .text") == [HOSTILE]
    assert not browser.find_elements(By.CSS_SELECTOR, "main script, main img[src=x]")
    assert "owned" not in browser.title and browser.get_log("browser") == []


@pytest.mark.parametrize("address", ["#/group?at=999", "#/clip?id=nothing", "#/clip?id=__proto__"])
def test_an_address_of_nothing_is_answered(browser: webdriver.Chrome, page: str, address: str) -> None:
    open_view(browser, f"{page}{address}", "h1")
    assert heading(browser).startswith("No such") and browser.get_log("browser") == []


def test_a_run_of_one_step(browser: webdriver.Chrome, tmp_path: Path) -> None:
    write_groups(tmp_path, RolloutFile(1, 0, 0, 1), [group(7, "a")])
    address = report(rollouts=str(tmp_path), output=str(tmp_path)).as_uri()
    open_view(browser, address, ".curve")
    assert texts(browser, ".curve small")[0] == "1 to 1, steps 7 to 7"
    open_view(browser, f"{address}#/compare", ".figures")
    assert texts(browser, ".figures tbody tr:first-child td") == ["11 group", "11 group", "0"]
    assert browser.get_log("browser") == []
