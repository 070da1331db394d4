"""Makes the pictures of the README and of docs/looking.md again, from the pages of a demo, in a headless Chromium.

python -m tests.benchmarks.pictures --demo demo-output --docs docs
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chromium import chromium, missing, problems
from train.demo import Demo
from train.demo_settings import FULL, PREDICTION
from train.results.display.page import view

SECONDS = 120
HIDE = "document.head.insertAdjacentHTML('beforeend', '<style>.modebar-container { display: none }</style>')"


def main() -> None:
    """Runs the demo first; of one that is there already its report alone is written again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo-output"), help="directory of a demo")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the pictures go")
    arguments = parser.parse_args()
    if (reason := missing()) is not None:
        sys.exit(f"pictures: {reason}. Fix: apt-get install chromium chromium-driver")
    subprocess.run([sys.executable, "-m", "larstore.cli", "demo", "-o", str(arguments.demo)], check=True)
    with chromium(1160, 1600) as driver:
        driver.get((arguments.demo / "report.html").resolve().as_uri())
        driver.execute_script(HIDE)
        scenes = "document.querySelectorAll('.plotly-graph-div .gl-container canvas').length"
        _wait(driver, f"{scenes} >= 3", "three scenes")
        _save(driver.find_element("css selector", ".plotly-graph-div"), arguments.docs / "event.png")
    with chromium(1500, 950) as driver, tempfile.TemporaryDirectory() as folder:
        demo = Demo(arguments.demo, FULL)
        page = view(demo.store, *demo.median_event(), Path(folder) / "event.html", prediction=PREDICTION)
        driver.get(f"{page.as_uri()}#colour=category&frame=event")
        _wait(driver, "document.body.dataset.event", "the event")
        driver.execute_script(HIDE)
        driver.execute_script(  # marks the highest true voxel that is kept
            "const e = state.event, up = e.columns[e.axes[2]];"
            "let best = -1; for (let i = 0; i < e.n; i++)"
            " if (e.category(i) === 2 && (best < 0 || up[i] > up[best])) best = i;"
            "keep([best], () => pointAt(best))"
        )
        time.sleep(1)
        _save(driver.find_element("tag name", "body"), arguments.docs / "looking.png")
        if found := problems(driver):
            sys.exit(f"pictures: {found}")


def _wait(driver, condition: str, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not driver.execute_script(f"return {condition}"):
        if time.monotonic() > end:
            sys.exit(f"pictures: not in {SECONDS} s: {what}; {problems(driver)}")
        time.sleep(0.1)
    time.sleep(2)


def _save(element, path: Path) -> None:
    path.write_bytes(element.screenshot_as_png)
    print(path)


if __name__ == "__main__":
    main()
