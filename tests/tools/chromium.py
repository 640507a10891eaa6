"""A headless Chromium, where there is one."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")

NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None, reason="Chromium or chromedriver is not installed: see .ci/chromium"
)


def start_chromium(preferences: dict[str, object] | None = None) -> webdriver.Chrome:
    """A driver whose console and network are logged, with preferences of the browser's profile; quit it when done."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if preferences:
        options.add_experimental_option("prefs", preferences)
    return webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
