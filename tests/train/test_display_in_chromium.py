"""Event pages in a real browser: drawn, without an error on the console, and doing what their controls say."""

import threading
import time
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest

import larstore
from larstore.testing import make_store
from tests.chromium import chromium, keep_screenshot, missing, pixels, problems
from tests.train.small_planes import tracks_store
from train.results.display.browsing import Browser
from train.results.display.cuts import cut_table
from train.results.display.page import view_images
from train.results.display.serving import BrowseServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    # Sockets of Selenium's connection pools.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SECONDS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return larstore.open(tracks_store(tmp_path_factory.mktemp("chromium") / "run.zarr", tracks=6))


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def page(store, tmp_path_factory):
    return view_images(list(store.select()), tmp_path_factory.mktemp("page") / "events.html")


@pytest.fixture
def opened(browser, page):
    open_page(browser, page.as_uri(), "0 0 1")
    return browser


def wait(driver, condition, what):
    end = time.monotonic() + SECONDS
    while not driver.execute_script(f"return {condition}"):
        assert time.monotonic() < end, f"not in {SECONDS} s: {what}; {problems(driver)}"
        time.sleep(0.05)


def open_page(driver, address, key):
    driver.get("about:blank")
    problems(driver)
    driver.get(address)
    wait_for(driver, key)


def wait_for(driver, key):
    wait(driver, f"document.body.dataset.event === '{key}'", f"event {key}")
    time.sleep(0.3)  # a frame of the picture


def text(driver, element):
    return driver.execute_script(f"return document.getElementById('{element}').textContent")


def press(driver, group, name):
    driver.execute_script(f"document.querySelector('#{group} button[data-name=\"{name}\"]').click()")
    time.sleep(0.3)


def picture(driver, element):
    """(height, width, 3) what an element looks like."""
    return pixels(driver.find_element("id", element).screenshot_as_png)


def coloured(image):
    """How many pixels are neither white nor grey."""
    return int((image.max(axis=2).astype(int) - image.min(axis=2) > 40).sum())


def test_an_event_is_drawn(opened):
    assert text(opened, "title") == "file 0 · event 0 · TPC 1"
    for element in ("space", "planes"):
        assert coloured(picture(opened, element)) > 500, element
    assert "voxels drawn" in text(opened, "drawn")
    keep_screenshot(opened, "event")
    assert problems(opened) == []


def test_the_slider_changes_what_is_kept(opened, store):
    image = store.select()[0]
    table = cut_table(image.score("net"), image.truth, image.summary("truth_count"), None, False)
    press(opened, "show", "kept")
    before, drawn = picture(opened, "space"), text(opened, "drawn")
    assert text(opened, "kept") == f"{table['kept'][table['start']]:,} of {len(image):,}"
    move = "const s = document.getElementById('slider'); s.value = {}; s.dispatchEvent(new Event('input'))"
    opened.execute_script(move.format(320))
    kept, true, ghosts = (table[name][320] for name in ("kept", "kept_true", "kept_ghost"))
    assert text(opened, "kept") == f"{kept:,} of {len(image):,}"
    assert text(opened, "purity") == f"{100 * true / (true + ghosts):.1f} %"
    assert text(opened, "efficiency") == f"{100 * true / table['true']:.1f} %"
    wait(opened, f"document.getElementById('drawn').textContent === '{kept:,} voxels drawn'", "drawn again")
    time.sleep(0.3)
    assert text(opened, "drawn") != drawn
    assert (picture(opened, "space") != before).any()
    assert problems(opened) == []


def test_buttons_change_colours(opened):
    seen = {}
    for name in ("charge", "charge_w", "truth", "score", "difference", "category"):
        press(opened, "colour", name)
        assert opened.execute_script("return document.querySelector('#colour button.on').dataset.name") == name
        seen[name] = picture(opened, "space")
        keep_screenshot(opened, f"colour-{name}")
    for one, other in pairwise(seen):
        assert (seen[one] != seen[other]).any(axis=2).sum() > 300, (one, other)
    assert [line for line in text(opened, "legend") if line.isdigit()], "the legend of categories counts"
    for frame in ("event", "TPC"):
        press(opened, "frame", frame)
    assert problems(opened) == []


def test_next_event(opened):
    before = picture(opened, "space")
    opened.find_element("id", "next").click()
    wait_for(opened, "1 0 1")
    assert text(opened, "title") == "file 1 · event 0 · TPC 1"
    assert (picture(opened, "space") != before).any()
    opened.execute_script("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))")
    wait_for(opened, "2 0 1")
    assert opened.find_element("id", "next").get_attribute("disabled")
    opened.execute_script("const p = document.getElementById('position'); p.value = 0; p.onchange()")
    wait_for(opened, "0 0 1")
    assert problems(opened) == []


def test_a_voxel_is_marked_on_the_planes(opened, store):
    image = store.select()[0]
    opened.execute_script(
        "document.getElementById('space').emit('plotly_click', {points: [{curveNumber: 1, pointNumber: 7}]})"
    )
    info = text(opened, "info")
    x = int(image.coords[7, 0])
    assert f"ticks {8 * x}–{8 * x + 7}" in info
    shapes, curves = opened.execute_script(
        "return [document.getElementById('planes').layout.shapes.map(s => [s.x0, s.y0]),"
        " document.getElementById('wave').data.map(t => [t.name, t.y])]"
    )
    assert len(shapes) == 6
    assert [x0 for x0, _ in shapes[::2]] == [8 * x + 4] * 3
    for (name, charges), (_, channel) in zip(curves, shapes[1::2], strict=True):
        assert name.split()[1] == str(channel)
        assert charges[x - int(image.coords[:, 0].min())] > 0
    assert "projected from the stored voxels" in text(opened, "says")
    keep_screenshot(opened, "voxel-marked")
    opened.execute_script("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}))")
    assert opened.execute_script("return document.getElementById('planes').layout.shapes.length") == 0
    assert problems(opened) == []


def test_a_place_on_a_plane_lights_its_voxels(opened):
    """With the real mouse."""
    from selenium.webdriver.common.action_chains import ActionChains

    # The pixel of the largest charge of the last plane.
    at = opened.execute_script(
        "const e = document.getElementById('planes'), t = e.data[2], l = e._fullLayout;"
        "let best = [-1, 0, 0]; t.z.forEach((row, i) => row.forEach((v, k) => { if (v > best[0]) best = [v, i, k]; }));"
        "const x = l.xaxis, y = l.yaxis3, box = e.getBoundingClientRect();"
        "return [x._offset + x.d2p(t.x0 + best[2] * t.dx) - box.width / 2,"
        " y._offset + y.d2p(t.y0 + best[1]) - box.height / 2]"
    )
    planes = opened.find_element("id", "planes")
    ActionChains(opened).move_to_element_with_offset(planes, round(at[0]), round(at[1])).pause(0.3).click().perform()
    wait(opened, "document.getElementById('planes').layout.shapes.length === 4", "marks of slice and channel")
    lit = opened.execute_script("return document.getElementById('space').data[4].x.length")
    assert lit >= 1
    assert text(opened, "info").startswith(f"{lit:,} voxels on this channel")
    keep_screenshot(opened, "channel-marked")
    assert problems(opened) == []


def test_a_link_asks_for_a_start(browser, page):
    open_page(browser, page.as_uri() + "#colour=score&show=kept&frame=event", "0 0 1")
    on = browser.execute_script("return [...document.querySelectorAll('button.on')].map(b => b.dataset.name)")
    assert on == ["score", "kept", "event"]


def test_two_hundred_thousand_voxels(browser, tmp_path):
    path = make_store(tmp_path / "run.zarr", n_files=1, n_events=1, n_voxels=200_000, shard_rows=1 << 18)
    open_page(browser, view_images(list(larstore.open(path).select()), tmp_path / "many.html").as_uri(), "0 0 1")
    assert text(browser, "drawn") == "200,000 voxels drawn"
    assert problems(browser) == []


def test_coarser_points(browser, store, tmp_path):
    image = store.select()[0]
    page = view_images([image], tmp_path / "coarse.html", max_points=len(image) - 1)
    open_page(browser, page.as_uri() + "#colour=category", "0 0 1")
    assert "points of up to 2 × 2 × 2 voxels" in text(browser, "notes")
    assert text(browser, "drawn").endswith(" points drawn")
    assert text(browser, "kept").endswith(f" of {len(image):,}"), "the cut counts voxels"
    keep_screenshot(browser, "coarser-points")
    assert problems(browser) == []


def test_browsing_a_store(browser, store, tmp_path):
    path = make_store(tmp_path / "run.zarr", n_files=20, n_events=4, tpcs=(1, 5), n_voxels=200)
    with BrowseServer(Browser(larstore.open(path).select())) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            _browse(browser, server)
        finally:
            browser.get("about:blank")
            server.shutdown()
            thread.join()


def _browse(browser, server):
    problems(browser)
    browser.get(server.url)
    rows = "document.querySelectorAll('#rows tr').length"
    wait(browser, f"{rows} === 50", "the first page of the list")
    assert text(browser, "total").startswith("1–50 of 160 images")
    keep_screenshot(browser, "browse-list")
    browser.find_element("id", "last").click()
    wait(browser, f"{rows} === 10", "the last page of the list")
    browser.find_element("id", "file").send_keys("7")
    browser.find_element("id", "tpc").send_keys("5\n")
    wait(browser, f"{rows} === 4", "what was searched for")
    assert browser.execute_script("return document.querySelector('#rows tr').textContent").startswith("705")
    browser.find_element("css selector", "#rows tr:nth-child(2) td:nth-child(2)").click()
    wait_for(browser, "7 1 5")
    assert browser.find_element("id", "steps").is_displayed()
    assert not browser.find_element("id", "cut").is_displayed(), "there is no prediction"
    assert coloured(picture(browser, "space")) > 100
    keep_screenshot(browser, "browse-event")
    browser.find_element("id", "next").click()
    wait_for(browser, "7 2 5")
    assert browser.find_element("id", "position").get_attribute("value") == "3"
    browser.find_element("id", "home").click()
    wait(browser, f"{rows} === 4", "the list as it was")
    browser.find_element("id", "event").send_keys("x\n")
    wait(browser, "document.getElementById('error').textContent.includes('Fix:')", "what is wrong")
    found = [line for line in problems(browser) if "400" not in line]
    assert found == []


def test_pixels_are_those_of_the_png():
    from matplotlib.image import imsave

    image = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    file = BytesIO()
    imsave(file, image, format="png")
    assert (pixels(file.getvalue()) == image).all()
