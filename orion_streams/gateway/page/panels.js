// What a click opens: a node's day, a request's verdicts; and where a key is asked for.

import { get, post } from "./api.js";
import { colour, colours, font } from "./colours.js";
import { byId, clock, day, element, name } from "./format.js";

const CHART_HEIGHT = 250, MOST_LISTED = 40;
const panel = byId("panel");

function show(title, ...children) {
  byId("panel-title").replaceChildren(title);
  byId("panel-body").replaceChildren(...children);
  if (!panel.open) panel.showModal();
}

// Open it at once, fill it when the gateway has answered.
async function open(title, path, fill) {
  show(title, element("p", { className: "muted" }, "…"));
  try {
    fill(await get(path));
  } catch (error) {
    show(title, element("p", { className: "bad" }, error.message));
  }
}

const moment = (ms) => `${day(ms)} ${clock(ms).slice(0, 5)}`;
const at = (position) => (position ? `&at=${position}` : "");

export function openWhy(request, position) {
  const title = element("span", {}, name(request.client), " · ", name(request.model));
  return open(title, `/orion/v1/why?number=${request.number}${at(position)}`, (found) => {
    const lines = found.lines.map((each) => element("li", {}, element("bdi", {}, each)));
    show(title,
      ...(found.id ? [element("p", { className: "muted" }, element("bdi", {}, found.id))] : []),
      element("p", { className: "lead" }, element("bdi", {}, found.text)),
      element("ul", { className: "verdicts" }, ...lines));
  });
}

export function openDay(node, position) {
  return open(name(node), `/orion/v1/day?node=${encodeURIComponent(node)}${at(position)}`, (found) => {
    const host = element("div", { className: "plot", role: "img", "aria-label": `${node}: temperature, memory and CPU over the day` });
    const ticks = found.ticks.slice(-MOST_LISTED).reverse().map((each) => {
      const link = element("a", { href: `#at=${each.position}` }, clock(each.ms));
      return element("li", {}, link, " ", element("bdi", {}, each.text));
    });
    show(name(node),
      element("p", { className: "muted" }, `${moment(found.from_ms)} – ${moment(found.to_ms)}`),
      found.points.length ? host : element("p", {}, "Nothing was heard of it."),
      element("h3", {}, ticks.length ? "What went wrong" : "Nothing went wrong"),
      element("ul", { className: "ticks-list" }, ...ticks));
    if (found.points.length) draw(host, found);
  });
}

function draw(host, found) {
  colours.clear(); // the theme may be another one than at the last drawing
  const column = (n, scale) => found.points.map((each) => (each[n] === null ? null : each[n] / scale));
  const axis = { stroke: colour("muted"), font: font(11), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
  const line = (label, tint, scale, unit) => ({
    label, scale, stroke: colour(tint), width: 1.5, points: { show: false },
    value: (u, value) => (value === null || value === undefined ? "–" : `${value.toFixed(1)} ${unit}`),
  });
  const labels = (u, splits) => splits.map((ms) => clock(ms).slice(0, splits[1] - splits[0] < 60000 ? 8 : 5));
  return new uPlot({
    width: host.clientWidth, height: CHART_HEIGHT, ms: 1, padding: [8, 8, 0, 0],
    scales: {
      x: { time: true, min: found.from_ms, max: found.to_ms, auto: false },
      celsius: { range: (u, min, max) => [Math.min(30, min ?? 30), Math.max(80, max ?? 80)] },
      percent: { range: [0, 100] },
    },
    series: [
      { label: "time", value: (u, ms) => (ms === null ? "–" : clock(ms)) },
      line("temperature", "temperature", "celsius", "°C"), line("memory", "memory", "percent", "%"), line("CPU", "cpu-line", "percent", "%"),
    ],
    axes: [
      { ...axis, size: 28, space: 70, values: labels },
      { ...axis, scale: "celsius", size: 52, values: (u, splits) => splits.map((each) => `${each} °C`) },
      { ...axis, scale: "percent", side: 1, size: 46, grid: { show: false }, values: (u, splits) => splits.map((each) => `${each} %`) },
    ],
    cursor: { y: false, drag: { x: false, y: false } },
    hooks: { drawClear: [(u) => shade(u, found.bands)] },
  }, [column(0, 1), column(1, 1000), column(2, 10), column(3, 10)], host);
}

// Behind the lines: when it took nothing.
function shade(u, bands) {
  u.ctx.save();
  u.ctx.fillStyle = colour("backoff-band");
  for (const each of bands) {
    const left = u.valToPos(each.from_ms, "x", true), right = u.valToPos(each.to_ms ?? u.scales.x.max, "x", true);
    u.ctx.fillRect(left, u.bbox.top, Math.max(right - left, 2), u.bbox.height);
  }
  u.ctx.restore();
}

// Ask for a key until one is good; what then goes on is `found`.
export function startPanels(found) {
  byId("panel-close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => {
    if (event.target === panel || event.target.closest("a")) panel.close(); // beside it, or on to a moment
  });
  byId("key").addEventListener("cancel", (event) => event.preventDefault());
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await post("/orion/v1/session", { key: byId("key-text").value.trim() });
    } catch (error) {
      byId("key-why").textContent = error.message;
      return;
    }
    byId("key-text").value = "";
    byId("key").close();
    found();
  });
}

export function askForKey() {
  if (byId("key").open) return; // it says why the last key was none
  byId("key-why").textContent = "Enter it once; this browser keeps it. Who runs the grid makes one: orion key add NAME --view-only";
  byId("key").showModal();
}
