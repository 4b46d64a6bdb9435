"""Look at pages of `anybatch compare` in a real, headless Chromium, on a phone and on a desktop, light and dark.

    python tools/check_page.py [--shots FOLDER] [page.html ...]

Without pages, those of the tests' hand-made comparisons are rendered. Each must load without a message on the console and
without asking for anything but itself, show its verdict without scrolling, never be wider than the screen, neither folded nor
unfolded, and keep text readable (WCAG AA contrast). Pictures go to a folder that is printed. The browser is the one that
`tools/install_chromium.sh` finds or installs, never one that is downloaded by a library.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, sync_playwright

ROOT: Final = Path(__file__).parents[1]
SCREENS: Final = {"phone": {"width": 360, "height": 740}, "desktop": {"width": 1280, "height": 800}}
THEMES: Final = ("light", "dark")
PAPER: Final = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 26)"}
TIMEOUT_MS: Final = 15_000

# All text that is shown, against what is painted below it: [ratio, what it should be, the text], of those below.
LOW_CONTRAST: Final = """() => {
    const parse = colour => {
        const parts = colour.match(/[\\d.]+/g).map(Number);
        return {rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1};
    };
    const over = (top, below) => top.rgb.map((value, i) => value * top.alpha + below[i] * (1 - top.alpha));
    const light = rgb => {
        const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = element => {
        if (!element) return [255, 255, 255];
        const own = parse(getComputedStyle(element).backgroundColor);
        return own.alpha === 1 ? own.rgb : over(own, paper(element.parentElement));
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let looked = 0;
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement, style = getComputedStyle(element);
        if (!walker.currentNode.data.trim() || element.closest("title, style") || style.visibility === "hidden") continue;
        const ink = parse(element.closest("svg") ? style.fill : style.color), below = paper(element);
        const levels = [light(over(ink, below)), light(below)].sort((a, b) => b - a);
        const ratio = (levels[0] + 0.05) / (levels[1] + 0.05);
        const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        looked += 1;
        const wanted = large ? 3 : 4.5;
        if (ratio < wanted) found.push([ratio.toFixed(2), wanted, walker.currentNode.data.trim().slice(0, 60)]);
    }
    return looked ? found.slice(0, 5) : [["nothing", "text", "no text was found"]];
}"""
WIDTHS: Final = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
UNFOLD: Final = "() => document.querySelectorAll('details').forEach(each => { each.open = true; })"
# What is drawn outside its picture is cut off.
CUT_OFF: Final = """() => [...document.querySelectorAll("figure svg text")].filter(text => {
    const inner = text.getBoundingClientRect(), outer = text.ownerSVGElement.getBoundingClientRect();
    return inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1
        || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1);
}).map(text => text.textContent).slice(0, 5)"""


def check_page(browser: Browser, page_file: Path, screen: str, theme: str, shots: Path) -> Iterator[str]:
    """Yield what is wrong with a page, in sentences; pictures of the page's top and of all of it go to `shots`."""
    heard: list[str] = []
    asked: list[str] = []
    settings: Any = {"viewport": SCREENS[screen], "color_scheme": theme, "is_mobile": screen == "phone"}
    context = browser.new_context(**settings)
    try:
        context.set_default_timeout(TIMEOUT_MS)
        context.on("request", lambda request: asked.append(request.url))
        context.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        context.on("weberror", lambda error: heard.append(f"error: {error.error}"))
        page = context.new_page()
        page.goto(page_file.as_uri())
        stem = shots / f"{page_file.stem}-{screen}-{theme}"
        page.screenshot(path=f"{stem}-top.png")
        for name in ("verdict", "sentence"):
            box = page.locator(f"#{name}").bounding_box()
            text = page.locator(f"#{name}").inner_text()
            if not text or not box or box["y"] < 0 or box["y"] + box["height"] > SCREENS[screen]["height"]:
                yield f"#{name} is not visible without scrolling: {text!r} at {box}"
        if page.locator("#verdict").inner_text() not in ("✓ Pass", "✗ Fail"):
            yield f"the verdict reads {page.locator('#verdict').inner_text()!r}"
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        if background != PAPER[theme]:
            yield f"expected a background of {PAPER[theme]} in {theme} mode, got {background}"
        for state in ("folded", "unfolded"):
            if state == "unfolded":
                page.evaluate(UNFOLD)
            wide, screen_wide = page.evaluate(WIDTHS)
            if wide > screen_wide:
                yield f"{state}, it is {wide} pixels wide on a screen of {screen_wide}"
        for ratio, wanted, text in page.evaluate(LOW_CONTRAST):
            yield f"contrast of {ratio}, expected at least {wanted}: {text!r}"
        for text in page.evaluate(CUT_OFF):
            yield f"text is cut off in a drawing: {text!r}"
        tall = page.evaluate("() => document.documentElement.scrollHeight")
        if tall < 16_000:  # a browser draws no picture that is taller
            page.screenshot(path=f"{stem}-all.png", full_page=True)
        others = [url for url in asked if url != page_file.as_uri() and not url.startswith("data:")]
        yield from (f"it asks for {url}" for url in others)
        yield from (f"on the console: {text}" for text in heard)
    finally:
        context.close()


def render_samples(folder: Path) -> list[Path]:
    """Render the tests' hand-made comparisons into a folder."""
    sys.path.insert(0, str(ROOT / "tests"))
    from anybatch.comparison._save import save
    from comparison_samples import SAMPLES

    pages = [folder / f"{name}.html" for name in SAMPLES]
    for page, make in zip(pages, SAMPLES.values(), strict=True):
        save(make(), page)
    return pages


def main(arguments: Sequence[str] | None = None) -> int:
    """Check pages and print what is wrong; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="pages to look at")
    parser.add_argument("--shots", type=Path, help="folder for pictures; a new temporary one without it")
    given = parser.parse_args(arguments)
    chromium = shutil.which("chromium")
    if chromium is None:
        print("check_page: there is no chromium: sh tools/install_chromium.sh installs it", file=sys.stderr)
        return 2
    shots = given.shots or Path(tempfile.mkdtemp(prefix="anybatch-pages-"))
    shots.mkdir(parents=True, exist_ok=True)
    pages = [page.resolve() for page in given.pages] or render_samples(shots.resolve())
    wrong = 0
    with sync_playwright() as playwright:
        # As root, Chromium runs without its sandbox only; the pages are our own.
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False, timeout=TIMEOUT_MS)
        try:
            for page, screen, theme in product(pages, SCREENS, THEMES):
                problems = list(check_page(browser, page, screen, theme, shots))
                wrong += len(problems)
                for problem in problems:
                    print(f"{page.name}, {screen}, {theme}: {problem}", file=sys.stderr)
            looked = f"{len(pages)} page{'s' * (len(pages) != 1)}, {len(SCREENS)} screens, {len(THEMES)} themes"
            print(f"Chromium {browser.version}: {looked}; {wrong or 'no'} faults; pictures: {shots}")
        finally:
            browser.close()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
