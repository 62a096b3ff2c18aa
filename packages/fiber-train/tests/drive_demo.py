"""Drives `fiber demo` in a headless Chromium: every task is clicked, what appears is checked, screenshots are kept.

    python drive_demo.py quickstart/fine quickstart/coarse --images quickstart/scenes/images/val --out screenshots

Every task must be among the checkpoints': the tab of one that is missing fails. Needs `fiber-train[demo]`, playwright, and the distribution's Chromium (`CHROMIUM`, by default /usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

PATIENCE = 180_000  # milliseconds for an answer, of slow machines
COLORS = 256  # of a screenshot: fewer would show others than the page does
# words whose contrast is below WCAG's 4.5
CONTRAST = """panel => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const linear = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = color => { const [r, g, b] = numbers(color).map(linear); return 0.2126*r + 0.7152*g + 0.0722*b; };
  const behind = node => { const color = getComputedStyle(node).backgroundColor;
    return numbers(color)[3] === 0 ? behind(node.parentElement) : color; };
  return [...panel.querySelectorAll('.fiber-words span')].filter(word => {
    const [low, high] = [light(getComputedStyle(word).color), light(behind(word))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05) < 4.5;
  }).map(word => word.textContent);
}"""
SIZES = {"desktop": (1200, 1000), "phone": (390, 844)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--docs", type=Path, help="folder where the guide's are renewed")
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
    if options.docs:
        shown = {f"desktop-{place(tab)}": f"demo-{place(tab)}" for tab in TASKS} | {"phone-boxes": "demo-phone"}
        for name, renewed in shown.items():
            shutil.copyfile(options.out / f"{name}.png", options.docs / f"{renewed}.png")
    return 0


def place(tab: str) -> str:
    """A tab's name as a file's."""
    return tab.lower().replace(" ", "-")


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
    """All tasks at both sizes, in light and dark; what leaves this machine, or tries to, fails."""
    fetched: set[str] = set()
    complaints: list[str] = []
    for number, (size, (width, height)) in enumerate(SIZES.items()):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=("light", "dark")[number]
        )
        page = context.new_page()
        page.on("request", lambda request: fetched.add(request.url))
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("console", lambda told: complaints.append(told.text) if "Content Security" in told.text else None)
        page.goto(f"{url}?__theme={('light', 'dark')[number]}")
        expect(page.get_by_role("heading", name="Ask FIBER")).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_role("tab").first).to_be_visible(timeout=PATIENCE)
        for tab, task in TASKS.items():
            open_tab(page, tab)
            task(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, f"{tab} is wider than {width} px"
            keep(page, out / f"{size}-{place(tab)}.png")
            print(f"{size}: {tab}", flush=True)  # noqa: T201
        page.get_by_role("button", name="What the models know").click()
        expect(page.get_by_text("million parameters").first).to_be_visible()
        keep(page, out / f"{size}-about.png")
        uploads(page)
        content = page.content()
        assert str(Path.cwd()) not in content, "no folder of the server's is on the page"
        context.close()
    elsewhere = [each for each in fetched if not each.startswith((url, "data:", "blob:"))]
    assert not elsewhere, f"fetched from elsewhere: {elsewhere}"
    assert not complaints, "\n".join(complaints)


def keep(page: Page, path: Path) -> None:
    """A screenshot, small enough for the docs."""
    page.mouse.move(0, 0)
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as shot:
        small = shot.convert("RGB").resize((shot.width * 2 // 3, shot.height * 2 // 3), Image.Resampling.LANCZOS)
        small.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


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
    text.press("Enter")
    result = page.locator("#boxes")
    expect(result.locator("svg").first).to_be_visible(timeout=PATIENCE)
    expect(result.locator(".fiber-words span").first).to_be_visible()
    weak = result.evaluate(CONTRAST)
    assert not weak, f"words that are hardly legible: {weak}"
    box = result.locator("svg g").first
    box.focus()
    assert re.fullmatch(r".+: 0\.\d\d", box.get_attribute("aria-label") or ""), "the keyboard reaches the score too"
    assert re.fullmatch(r".+: 0\.\d\d", box.locator("title").text_content() or ""), "hover shows it"
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
    """The first word, and another, which looks elsewhere."""
    panel = page.get_by_role("tabpanel").filter(visible=True)
    shown = panel.locator(".fiber-look img").first
    choices = panel.locator(".fiber-choice label")
    choices.nth(1).click()
    expect(shown).to_be_visible(timeout=PATIENCE)
    before = shown.get_attribute("src") or ""
    choices.first.click()
    expect(shown).not_to_have_attribute("src", before, timeout=PATIENCE)
    expect(panel.locator(".fiber-look").last).to_contain_text(f"“{choices.first.inner_text().strip()}”, by Grad-CAM")


def uploads(page: Page) -> None:
    """What cannot be read is told at once, in a sentence; what can be is asked about."""
    photo, large = BytesIO(), BytesIO()
    Image.new("RGB", (90, 60), "red").save(photo, "PNG")
    Image.new("L", (6000, 5000)).save(large, "PNG")
    told, field = page.locator(".fiber-told").first, page.locator(".fiber-image").first
    given = {
        "photo.heic": (bytes(600), "no image that can be read here"),
        "many.png": (large.getvalue(), "more than 25 million pixels"),
        "large.png": (photo.getvalue() + bytes(21_000_000), None),
        "photo.png": (photo.getvalue(), ""),
    }
    for name, (content, sentence) in given.items():
        remove = field.get_by_role("button", name=re.compile("remove|clear", re.IGNORECASE))
        if remove.count():
            remove.first.click()
        field.locator("input[type=file]").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
        if sentence is None:
            expect(page.get_by_text("exceeds the maximum allowed size").first).to_be_visible(timeout=PATIENCE)
        elif sentence:
            expect(told).to_contain_text(sentence, timeout=PATIENCE)
        else:
            expect(told.locator(".fiber-error")).to_have_count(0, timeout=PATIENCE)
            expect(field.locator("img")).to_be_visible(timeout=PATIENCE)


def answers(page: Page) -> None:
    page.get_by_role("button", name="Ask", exact=True).click()
    rows = page.locator("#answers .fiber-row")
    expect(rows.first).to_be_visible(timeout=PATIENCE)
    shares = [percent(rows.nth(row)) for row in range(rows.count())]
    assert len(shares) == 5, "the five best"
    assert shares == sorted(shares, reverse=True), "best first"
    page.locator("#why label").first.click()
    expect(page.locator("#reasons img").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#reasons")).to_contain_text("by Grad-CAM")


def captions(page: Page) -> None:
    page.get_by_role("button", name="Describe", exact=True).click()
    rows = page.locator("#captions .fiber-row")
    expect(rows.first).to_be_visible(timeout=PATIENCE)
    written = [rows.nth(row).locator("b").inner_text() for row in range(rows.count())]
    assert len(set(written)) == 3, "as many captions as were asked for, each another"
    look(page)


def search(page: Page) -> None:
    page.get_by_role("button", name="Match with the image").click()
    rows = page.locator("#search .fiber-row")
    expect(rows.nth(1)).to_contain_text("cosine", timeout=PATIENCE)
    percent(rows.first)
    page.get_by_role("button", name="Search", exact=True).click()
    found = page.locator("#search figure")
    expect(found.nth(5)).to_be_visible(timeout=PATIENCE)
    scores = [float(found.nth(row).locator("small").inner_text()) for row in range(found.count())]
    assert scores == sorted(scores, reverse=True), "best first"


def judge(page: Page) -> None:
    statement = page.get_by_role("textbox", name="statement")
    shown = []
    for words in ("both images show a circle", "no image shows a black triangle"):
        statement.fill(words)
        page.get_by_role("button", name="Judge", exact=True).click()
        row = page.locator("#judge .fiber-row").first
        expect(row).to_be_visible(timeout=PATIENCE)
        if shown:
            expect(row).not_to_have_text(shown[-1], timeout=PATIENCE)
        percent(row)
        shown.append(row.inner_text())


def percent(row: Locator) -> float:
    """What a row says, which its bar shows."""
    told = re.search(r"([\d.]+) %", row.inner_text())
    assert told, f"no probability in {row.inner_text()!r}"
    assert 0 <= float(told[1]) <= 100
    return float(told[1])


TASKS = {
    "Boxes": boxes,
    "Answers": answers,
    "Captions": captions,
    "Search": search,
    "Two images": judge,
}


if __name__ == "__main__":
    sys.exit(main())
