"""Drives `fiber demo` in a headless Chromium: every task is clicked, what appears is checked, screenshots are kept.

    python drive_demo.py quickstart/fine quickstart/coarse --images quickstart/scenes/images/val --out screenshots

Needs `fiber-train[demo]`, playwright, and the distribution's Chromium (`CHROMIUM`, by default /usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE = 180_000  # milliseconds for an answer, of slow machines
SIZES = {"desktop": (1200, 1000), "phone": (390, 844)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--port", type=int, help="of a demo that runs already")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with served(options) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        try:
            drive(browser, url, options.out)
        finally:
            browser.close()
    return 0


@contextmanager
def served(options: argparse.Namespace) -> Iterator[str]:
    """The address of a demo of the checkpoints, for the while."""
    if options.port:
        yield f"http://127.0.0.1:{options.port}"
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word for checkpoint in options.checkpoints for word in ("--checkpoint", checkpoint)]
    command = [sys.executable, "-m", "fiber_train.cli", "demo", *words, "--images", options.images, "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def drive(browser: Browser, url: str, out: Path) -> None:
    """All tasks at both sizes, in light and dark; what leaves this machine fails."""
    fetched: set[str] = set()
    tabs: dict[str, None] = {}  # all of those that the wide page shows
    for number, (size, (width, height)) in enumerate(SIZES.items()):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=("light", "dark")[number]
        )
        page = context.new_page()
        page.on("request", lambda request: fetched.add(request.url))
        page.on("pageerror", lambda error: sys.stderr.write(f"page error: {error}\n"))
        page.goto(f"{url}?__theme={('light', 'dark')[number]}")
        expect(page.get_by_role("heading", name="Ask FIBER")).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_role("tab").first).to_be_visible(timeout=PATIENCE)
        tabs |= dict.fromkeys(filter(None, (each.inner_text().strip() for each in page.get_by_role("tab").all())))
        for tab in tabs:
            open_tab(page, tab)
            TASKS[tab](page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, f"{tab} is wider than {width} px"
            page.screenshot(path=out / f"{size}-{tab.lower().replace(' ', '-')}.png", full_page=True)
            print(f"{size}: {tab}", flush=True)  # noqa: T201
        page.get_by_role("button", name="What the models know").click()
        expect(page.get_by_text("million parameters").first).to_be_visible()
        page.screenshot(path=out / f"{size}-about.png", full_page=True)
        content = page.content()
        assert str(Path.cwd()) not in content, "no folder of the server's is on the page"
        context.close()
    elsewhere = [each for each in fetched if not each.startswith((url, "data:", "blob:"))]
    assert not elsewhere, f"fetched from elsewhere: {elsewhere}"


def open_tab(page: Page, name: str) -> None:
    """A tab, which on a phone may be behind a button."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.first.is_visible():
        page.locator(".overflow-menu > button").first.click()
        tab = page.locator(".overflow-dropdown").get_by_text(name, exact=True)
    tab.first.click()


def boxes(page: Page) -> None:
    text = page.get_by_role("textbox", name="text").filter(visible=True)
    asked = text.input_value()
    text.fill("")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.locator("#boxes .fiber-error")).to_contain_text("is empty", timeout=PATIENCE)
    text.fill(asked)
    page.get_by_role("button", name="Find", exact=True).click()
    result = page.locator("#boxes")
    expect(result.locator("svg").first).to_be_visible(timeout=PATIENCE)
    expect(result.locator(".fiber-words span").first).to_be_visible()
    before = result.locator("svg rect").count()
    slider = page.get_by_role("spinbutton", name=re.compile("threshold")).first
    slider.fill("0.05")
    slider.press("Enter")
    expect(result.get_by_text("above 0.05").first).to_be_visible(timeout=PATIENCE)
    assert result.locator("svg rect").count() >= before, "a lower threshold shows no fewer boxes"
    slider.fill("0.3")
    slider.press("Enter")
    expect(result.get_by_text("above 0.30").first).to_be_visible(timeout=PATIENCE)
    assert result.locator("svg rect").count() == before
    look(page)


def look(page: Page) -> None:
    """The first word, both ways."""
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.locator(".fiber-choice label").first.click()
    expect(panel.locator(".fiber-look img").first).to_be_visible(timeout=PATIENCE)
    shown = panel.locator(".fiber-look").last
    expect(shown).to_contain_text("by Grad-CAM", timeout=PATIENCE)
    panel.get_by_label("attention", exact=True).click()
    expect(shown).to_contain_text("by attention", timeout=PATIENCE)
    panel.get_by_label("Grad-CAM", exact=True).click()
    expect(shown).to_contain_text("by Grad-CAM", timeout=PATIENCE)


def answers(page: Page) -> None:
    page.get_by_role("button", name="Ask", exact=True).click()
    rows = page.locator("#answers .fiber-row")
    expect(rows.first).to_be_visible(timeout=PATIENCE)
    assert "%" in rows.first.inner_text()
    page.locator("#why label").first.click()
    expect(page.locator("#reasons img").first).to_be_visible(timeout=PATIENCE)
    look(page)


def captions(page: Page) -> None:
    page.get_by_role("button", name="Describe", exact=True).click()
    rows = page.locator("#captions .fiber-row")
    expect(rows.first).to_be_visible(timeout=PATIENCE)
    assert rows.count() == 3, "as many captions as were asked for"
    look(page)


def search(page: Page) -> None:
    page.get_by_role("button", name="Match with the image").click()
    expect(page.locator("#search .fiber-row").first).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#search figure").nth(5)).to_be_visible(timeout=PATIENCE)
    look(page)


def judge(page: Page) -> None:
    page.get_by_role("button", name="Judge", exact=True).click()
    expect(page.locator("#judge .fiber-row").first).to_be_visible(timeout=PATIENCE)


TASKS = {
    "Boxes": boxes,
    "Answers": answers,
    "Captions": captions,
    "Search": search,
    "Two images": judge,
}


if __name__ == "__main__":
    sys.exit(main())
