"""A headless Chromium that is installed already, driven by Selenium: nothing is downloaded."""

import os
import re
import shutil
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome")
SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
# WebGL without a graphics card, in software.
OPTIONS = ("--headless=new", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage",
           "--hide-scrollbars", "--force-device-scale-factor=1", "--no-first-run", "--disable-extensions",
           "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip


def missing() -> str | None:
    """What is not installed, None if all is there."""
    if not any(map(shutil.which, NAMES)):
        return "no chromium is installed"
    return None if shutil.which("chromedriver") else "no chromedriver is installed"


@contextmanager
def chromium(width=1600, height=1000):
    """A browser (Selenium's driver) with a window of this size."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(path for path in map(shutil.which, NAMES) if path)
    for option in (*OPTIONS, f"--window-size={width},{height}"):
        options.add_argument(option)
    if os.geteuid() == 0:  # its sandbox does not work for root
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


def problems(driver) -> list[str]:
    """Errors on the console since the last call."""
    return [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"]


def keep_screenshot(driver, name: str) -> Path:
    """Saves the window as ``build/screenshots/NAME.png``."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{re.sub(r'[^A-Za-z0-9-]+', '-', name)}.png"
    path.write_bytes(driver.get_screenshot_as_png())
    return path


def pixels(png: bytes) -> np.ndarray:
    """(height, width, 3) uint8 of a PNG."""
    from matplotlib.image import imread

    return (imread(BytesIO(png), format="png")[..., :3] * 255).round().astype(np.uint8)
