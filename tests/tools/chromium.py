"""A headless Chromium, where there is one, and what a reader does in it."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")

NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None, reason="Chromium or chromedriver is not installed: see .ci/chromium"
)


def start_chromium(preferences: dict[str, object] | None = None) -> webdriver.Chrome:
    """A driver whose console and network are logged, with preferences of the browser's profile; quit it when done.

    Pages that ask for a camera get Chromium's own test picture and beep.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    for argument in ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if preferences:
        options.add_experimental_option("prefs", preferences)
    return webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))


def until(browser: webdriver.Chrome, condition: Callable[[webdriver.Chrome], Any]) -> Any:
    """Wait for what a condition returns; elements that it asks may be replaced between its questions."""
    gone = [StaleElementReferenceException]
    return WebDriverWait(browser, 60, poll_frequency=0.05, ignored_exceptions=gone).until(condition)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    """Texts as they are in the document, all at once: rows may be replaced between two questions."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return browser.execute_script(script, selector)


def attributes(browser: webdriver.Chrome, selector: str, name: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.getAttribute(arguments[1]))"
    return browser.execute_script(script, selector, name)


def choose(browser: webdriver.Chrome, label: str, value: str) -> None:
    field = browser.find_element(By.XPATH, f"//label[span[text()='{label}']]/select")
    Select(field).select_by_value(value)


def press(browser: webdriver.Chrome, *keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def focused(browser: webdriver.Chrome, attribute: str) -> str | None:
    """An attribute of the element that has the focus, in one question, as `texts`."""
    return browser.execute_script("return document.activeElement.getAttribute(arguments[0])", attribute)


def open_view(browser: webdriver.Chrome, address: str, selector: str) -> None:
    """Open an address anew: another view of the page that is open would leave its elements there for a moment."""
    browser.get("about:blank")
    browser.get(address)
    until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, selector))


def heading(browser: webdriver.Chrome) -> str:
    return (texts(browser, "h1 > [dir]:first-child") or texts(browser, "h1"))[0]


def requests(browser: webdriver.Chrome) -> list[str]:
    """Addresses that the browser asked for since the last call, but for data inside the page."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [own["params"]["request"]["url"] for own in messages if own["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith("data:")]
