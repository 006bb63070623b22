// The bar from then to now: ticks where something went wrong, a handle where the page is.

import { byId, clock, day, element } from "./format.js";
import { keep, put } from "./keyed.js";
import { joinTicks } from "./views.js";
import { hideTip, showTip } from "./tip.js";

const MINUTE = 60000, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const RANGES = [["1 h", HOUR], ["1 day", DAY], ["all", Infinity]];
const STEPS = [MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY];
const LABELS = 9, FINE = 360, COARSE = 24, NEAR_NOW = 0.997, EDGE = 20;

const bar = byId("bar");
const time = { range: HOUR, from: 0, to: 1, at: 0, live: true, first: 0, ticks: [] };
let seek = () => {}, visit = () => {}, goLive = () => {};

const place = (ms) => (ms - time.from) / (time.to - time.from);
const moment = (ms) => (time.range > DAY ? `${day(ms).slice(5)} ` : "") + clock(ms);

export function addTicks(fresh, firstMs) {
  time.ticks = joinTicks(time.ticks, fresh);
  if (firstMs) time.first = firstMs;
}

// Show now, and where the page is: `at` in ms, or null for live.
export function fillBar(nowMs, at) {
  time.live = at === null;
  time.at = at === null ? nowMs : at;
  const longest = Math.max(nowMs - (time.first || nowMs - HOUR), MINUTE);
  const covers = ([, ms]) => ms >= time.range && nowMs - time.at <= ms;
  time.range = (RANGES.find(covers) || RANGES[2])[1];
  time.to = nowMs;
  time.from = nowMs - Math.min(time.range, Math.max(longest, nowMs - time.at));
  byId("handle").style.left = `${Math.min(Math.max(place(time.at), 0), 1) * 100}%`;
  put(bar, "aria-valuemin", String(Math.round(time.from / 1000)));
  put(bar, "aria-valuemax", String(Math.round(time.to / 1000)));
  put(bar, "aria-valuenow", String(Math.round(time.at / 1000)));
  put(bar, "aria-valuetext", time.live ? "live" : `${moment(time.at)}, not live`);
  const seen = time.ticks.filter((each) => each.ms >= time.from);
  keep(byId("ticks"), seen, (each) => `${each.position} ${each.kind} ${each.node}`, makeTick);
  keep(byId("hours"), hours(), (each) => each, makeHour);
  for (const button of byId("ranges").children) put(button, "aria-pressed", String(Number(button.value) === time.range));
  byId("tick-before").disabled = !time.ticks.some((each) => each.ms < time.at);
  byId("tick-next").disabled = time.live;
}

function makeTick(tick) {
  const node = element("i", { className: `tick kind-${tick.kind}` });
  return { node, update: (each) => {
    node.style.left = `${place(each.ms) * 100}%`;
    node.style.width = each.until_ms ? `${Math.max(place(each.until_ms) - place(each.ms), 0) * 100}%` : "";
  } };
}

// Full hours, minutes or days, as many as there is room for.
function hours() {
  const room = Math.min(LABELS, Math.max(2, Math.floor(bar.clientWidth / 75)));
  const step = STEPS.find((each) => (time.to - time.from) / each <= room) || STEPS.at(-1);
  const offset = new Date(time.to).getTimezoneOffset() * MINUTE;
  const found = [];
  for (let ms = Math.ceil((time.from - offset) / step) * step + offset; ms < time.to; ms += step) {
    const x = place(ms) * bar.clientWidth;
    if (x > EDGE && x < bar.clientWidth - EDGE) found.push(ms);
  }
  return found;
}

function makeHour(first) {
  const whole = new Date(first).getHours() === 0 && new Date(first).getMinutes() === 0;
  const node = element("span", {}, whole ? day(first).slice(5) : clock(first).slice(0, 5));
  return { node, update: (ms) => { node.style.left = `${place(ms) * 100}%`; } };
}

const msAt = (event) => {
  const box = bar.getBoundingClientRect();
  return time.from + Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * (time.to - time.from);
};

function go(ms, now = 1) {
  if (place(ms) >= now) goLive();
  else seek(Math.max(ms, time.first || ms));
}

// The tick under the pointer, as near as a finger is.
function tickAt(event) {
  const box = bar.getBoundingClientRect(), reach = event.pointerType === "touch" ? 16 : 6;
  const away = (each) => Math.abs(box.left + place(each.ms) * box.width - event.clientX);
  const near = time.ticks.filter((each) => away(each) <= reach).sort((a, b) => away(a) - away(b));
  return near[0];
}

function drag() {
  let dragging = false;
  bar.addEventListener("pointerdown", (event) => {
    const tick = tickAt(event);
    if (tick) return visit(tick.position);
    dragging = true;
    bar.setPointerCapture(event.pointerId);
    return go(msAt(event), NEAR_NOW);
  });
  bar.addEventListener("pointermove", (event) => {
    if (dragging) return go(msAt(event), NEAR_NOW);
    const tick = tickAt(event);
    if (!tick) return hideTip();
    return showTip(event, element("p", { className: "tip-title" }, `${moment(tick.ms)} ${tick.node}`), element("p", {}, tick.text));
  });
  for (const end of ["pointerup", "pointercancel"]) bar.addEventListener(end, () => { dragging = false; });
  bar.addEventListener("pointerleave", hideTip);
}

function keys(event) {
  const length = time.to - time.from;
  const by = {
    ArrowLeft: -length / FINE, ArrowDown: -length / FINE, ArrowRight: length / FINE, ArrowUp: length / FINE,
    PageDown: -length / COARSE, PageUp: length / COARSE, Home: -Infinity, End: Infinity,
  }[event.key];
  if (!by) return;
  event.preventDefault();
  go(Math.min(Math.max(time.at + by, time.from), time.to));
}

function step(by) {
  const beside = time.ticks.filter((each) => (by < 0 ? each.ms < time.at - 1000 : each.ms > time.at + 1000));
  const next = by < 0 ? beside.at(-1) : beside[0];
  if (next) visit(next.position);
  else if (by > 0) goLive();
}

export function startBar(handlers) {
  ({ seek, visit, goLive } = handlers);
  byId("ranges").replaceChildren(...RANGES.map(([label, ms]) => {
    const button = element("button", { type: "button", value: String(ms) }, label);
    button.addEventListener("click", () => {
      time.range = ms;
      if (time.to - time.at > ms) goLive();
      else fillBar(time.to, time.live ? null : time.at);
    });
    return button;
  }));
  byId("tick-before").addEventListener("click", () => step(-1));
  byId("tick-next").addEventListener("click", () => step(1));
  bar.addEventListener("keydown", keys);
  drag();
}
