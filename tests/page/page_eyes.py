"""What a test sees of a page: whether its letters can be read, and whether anything is cut off."""

from __future__ import annotations

from tests.browser import Page

FAINT = """
(() => {
  const parts = (text) => { const m = text.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] ?? 1]; };
  const isGrey = (e) => { for (; e; e = e.parentElement) if (getComputedStyle(e).filter.includes('grayscale')) return true; return false; };
  const grey = ([r, g, b, a]) => { const y = 0.2126 * r + 0.7152 * g + 0.0722 * b; return [y, y, y, a]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  function behind(e) {
    const found = [];
    for (; e; e = e.parentElement) found.push(parts(getComputedStyle(e).backgroundColor));
    return found.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility({ visibilityProperty: true }) || !e.getClientRects().length) continue;
    if (['SCRIPT', 'STYLE', 'NOSCRIPT', 'OPTION'].includes(e.tagName) || parseFloat(getComputedStyle(e).fontSize) === 0) continue;
    let ink = over(parts(getComputedStyle(e).color), behind(e)), ground = behind(e);
    if (isGrey(e)) [ink, ground] = [grey(ink), grey(ground)];
    const found = ratio(ink, ground);
    if (found < 4.5) faint.push(`${walker.currentNode.data.trim().slice(0, 40)} (${e.className}): ${found.toFixed(2)}`);
  }
  return [...new Set(faint)];
})()
"""
"""Texts whose contrast with what lies behind them is below 4.5."""
CUT = """
[...document.querySelectorAll('.now, .warm, .ram, .when, .node header')]
  .filter((e) => e.checkVisibility() && (e.scrollHeight > e.clientHeight + 2 || e.scrollWidth > e.clientWidth + 2))
  .map((e) => `${e.className}: ${e.innerText} (${e.scrollWidth}x${e.scrollHeight} in ${e.clientWidth}x${e.clientHeight})`)
"""
"""Parts of cards that show less than they say."""
DRAWN = """
document.querySelector('#hours').children.length > 0
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
