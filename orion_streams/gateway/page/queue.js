// The queue as a strip: a lozenge as wide as the expected work, in its client's colour, its expected time below.

import { byId, element, name, plural } from "./format.js";
import { keep, put, roving, say, sayName } from "./keyed.js";
import { hideTip, showTip } from "./tip.js";
import { rough, tint } from "./words.js";

const LABEL = 80, LEAST = 56, NAMED = 58, THIN = 4, LEAST_WORK_MS = 500;

// Widths in pixels, as the work, that fill the strip at most: what would be too narrow gets its half of an
// equal share, and a few short ones do not fill it.
function widths(queue, free) {
  const work = queue.map((each) => Math.max(each.work_ms || 0, LEAST_WORK_MS));
  const least = Math.min(LEAST, free / 2 / queue.length), most = free / 3 / Math.max(...work);
  let wide = [], scale = Infinity;
  for (let turn = 0; turn <= queue.length; turn++) {
    const narrow = wide.filter((each) => each === least).length;
    const rest = work.reduce((sum, each, i) => (wide[i] === least ? sum : sum + each), 0);
    const next = Math.min(most, (free - narrow * least) / rest);
    if (!(next < scale)) break;
    scale = next;
    wide = work.map((each, i) => (wide[i] === least ? least : Math.max(each * next, least)));
  }
  return wide;
}

// In the order of their expected times; of whom nobody knows when, at the end.
export const inTime = (queue) => [...queue].sort((a, b) => (a.eta_ms || Infinity) - (b.eta_ms || Infinity) || 0);

const expected = (each) => (each.eta_ms ? rough(each.eta_ms) : ""); // 0: nobody knows

function tell(each) {
  const soon = expected(each) ? `expected in ${expected(each)}` : "no expected time yet";
  const most = each.eta_high_ms > each.eta_ms ? `, at most ${rough(each.eta_high_ms)}` : "";
  return [
    element("p", { className: "tip-title" }, name(each.client), " · ", name(each.model, "model")),
    element("p", {}, soon + most),
    element("p", { className: "muted" }, `waits for ${rough(each.age_ms)}; work of about ${rough(each.work_ms)}`),
    ...(each.why ? [element("p", { className: "muted" }, each.why)] : []),
  ];
}

function makeLozenge(first, open, mine) {
  let now = first;
  const who = element("bdi", {});
  const button = element("button", { type: "button", className: "lozenge", tabIndex: -1, "aria-haspopup": "dialog" }, who);
  const node = element("li", {}, button);
  button.addEventListener("click", () => { hideTip(); open(now); });
  button.addEventListener("pointermove", (event) => showTip(event, ...tell(now)));
  button.addEventListener("focus", () => {
    if (!button.matches(":focus-visible")) return;
    const box = button.getBoundingClientRect();
    showTip({ clientX: box.left, clientY: box.top }, ...tell(now));
  });
  for (const leave of ["pointerleave", "blur"]) button.addEventListener(leave, hideTip);
  return {
    node,
    update({ each, width }) {
      now = each;
      node.style.width = `${width}px`;
      sayName(who, each.client);
      button.className = `lozenge tint-${tint(each.client)} ${mine(each.id) ? "mine" : ""} ${width < NAMED ? "thin" : ""}`;
      put(button, "aria-label", `${each.client}, ${each.model}, ${expected(each) ? `expected in ${expected(each)}` : "no expected time yet"}`);
    },
  };
}

// As many expected times as there is room for, each where its lozenge begins.
function labels(queue, wide, gap, room) {
  const found = [];
  let left = 0, until = -1;
  queue.forEach((each, i) => {
    if (left >= until && left + LEAST < room && expected(each)) {
      found.push({ left, number: each.number, text: expected(each) });
      until = left + LABEL;
    }
    left += wide[i] + gap;
  });
  return found;
}

function makeLabel() {
  const node = element("span", {});
  return { node, update(each) { node.style.left = `${each.left}px`; say(node, each.text); } };
}

function title(view, shown) {
  const waiting = view.queue.length + (view.queue_left_out || 0);
  if (!waiting) return "Nobody waits";
  const last = view.queue.reduce((most, each) => Math.max(most, each.eta_ms || 0), 0);
  const out = waiting > shown ? `; the first ${shown} are shown` : "";
  const until = last ? `,${waiting > 1 ? " the last" : ""} for about ${rough(last)}` : "";
  return `${plural(waiting, "request waits", "requests wait")}${until}${out}`;
}

export function fillQueue(view, { open, mine }) {
  const host = byId("queue");
  host.parentElement.classList.toggle("none", !view.queue.length); // hidden it has no width
  const room = Math.max(host.clientWidth - 6, THIN);
  const queue = inTime(view.queue).slice(0, Math.max(1, Math.floor(room / THIN)));
  const gap = queue.length > 60 ? 1 : 3;
  say(byId("queue-title"), title(view, queue.length));
  host.style.gap = `${gap}px`;
  const wide = queue.length ? widths(queue, room - gap * (queue.length - 1)) : [];
  keep(host, queue.map((each, i) => ({ each, width: wide[i] })), (row) => row.each.number, (row) => makeLozenge(row.each, open, mine));
  if (queue.length && !host.querySelector('[tabindex="0"]')) host.querySelector("button").tabIndex = 0;
  keep(byId("queue-times"), labels(queue, wide, gap, room), (each) => each.number, makeLabel);
}

roving(byId("queue"), ".lozenge");
