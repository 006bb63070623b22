"""What a test sees of a page: whether its letters can be read, and whether anything is cut off."""

from __future__ import annotations

from tests.browser import Page

FAINT = """
(() => {
  const parts = (text) => {
    const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a ?? 1];
  };
  const weigh = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
  const above = (e) => (e ? [e, ...above(e.parentElement)] : []);
  const isGrey = (e) => above(e).some((each) => getComputedStyle(each).filter.includes('grayscale'));
  const grey = (c) => [weigh(c), weigh(c), weigh(c), 1];
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const linear = (v) => (v <= 10.31 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = (c) => weigh(c.map(linear));
  const behind = (e) => above(e).map((each) => parts(getComputedStyle(each).backgroundColor))
    .reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const isSeen = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length
    && !['SCRIPT', 'STYLE', 'NOSCRIPT', 'OPTION'].includes(e.tagName)
    && parseFloat(getComputedStyle(e).fontSize) > 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = new Set();
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, said = walker.currentNode.data.trim().slice(0, 40);
    if (!said || !isSeen(e)) continue;
    let ink = over(parts(getComputedStyle(e).color), behind(e)), ground = behind(e);
    if (isGrey(e)) [ink, ground] = [grey(ink), grey(ground)];
    const found = ratio(ink, ground);
    if (found < 4.5) faint.add(`${said} (${e.className}): ${found.toFixed(2)}`);
  }
  return [...faint];
})()
"""
"""Texts whose contrast with what lies behind them is below 4.5."""
CUT = """
[...document.querySelectorAll('h1, .now, .warm, .ram, .when, .node header')]
  .filter((e) => e.checkVisibility())
  .filter((e) => e.scrollHeight > e.clientHeight + 2 || e.scrollWidth > e.clientWidth + 2)
  .map((e) => `${e.className}: ${e.innerText} (${e.scrollWidth}x${e.scrollHeight})`)
"""
"""Parts of cards that show less than they say."""
DRAWN = """
document.querySelector('#hours').children.length > 1
  && [...document.querySelectorAll('.track .line')].some((e) => e.getAttribute('d').length > 500)
"""
"""Whether the minutes before now are drawn: the gateway reads them after the first view."""
SIZE = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
CUT_OFF = "document.documentElement.hasAttribute('data-cut')"
CARDS = "document.querySelectorAll('.node').length"
SOURCES = """
window.sources = [];
window.EventSource = class extends EventSource {
  constructor(url) { super(url); window.sources.push(this); }
};
"""
"""Before the page's own script: `sources` holds the streams that it opened."""
SOON = """
const later = window.setTimeout;
window.setTimeout = (what, ms, ...more) => later(what, ms >= 100000 ? 300 : ms, ...more);
"""
"""Before the page's own script: minutes of waiting are over at once."""


def foreign(page: Page, url: str) -> list[str]:
    """What was asked for beyond the gateway."""
    return [each for each in page.requests if not each.startswith((f"{url}/", "data:"))]


async def text(page: Page, selector: str = "body") -> str:
    """What an element says."""
    return str(await page.ask(f"document.querySelector({selector!r}).innerText"))


async def says(page: Page, words: str, selector: str = "body") -> None:
    """Wait until an element says this."""
    await page.until(
        f"document.querySelector({selector!r}).innerText.includes({words!r})", f"the page says {words!r}"
    )
