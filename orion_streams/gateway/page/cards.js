// A card for each node: how warm, how full, what it does, or why it takes nothing.

import { byId, clock, element, name } from "./format.js";
import { keep, put, say, sayName } from "./keyed.js";
import { degrees, gigabytes, rough, STEPS_MC, tint, warmth } from "./words.js";

const TRACK_S = 600, GAP_MS = 20000, MOST_DOING = 3, MOST_CHIPS = 4;
const DEAD = new Set(["silent", "stale", "left"]); // not heard: what is shown is old
const SVG = "http://www.w3.org/2000/svg";
let drawn = 0;

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Ten minutes as a line, each part coloured by its distance to the mark, which is a dashed line.
function makeTrack() {
  const id = `warmth-${drawn++}`;
  const stops = [4, 4, 3, 3, 2, 2, 1, 1, 0, 0].map((step) => svg("stop", { class: `warm-${step}` }));
  const gradient = svg("linearGradient", { id, gradientUnits: "userSpaceOnUse", x1: 0, x2: 0, y1: 0, y2: 100 }, ...stops);
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line", stroke: `url(#${id})`, "vector-effect": "non-scaling-stroke" });
  const mark = svg("line", { class: "mark", x1: 0, x2: TRACK_S, "vector-effect": "non-scaling-stroke" });
  const picture = svg("svg", { viewBox: `0 0 ${TRACK_S} 100`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("defs", {}, gradient), area, mark, line);
  const label = element("span", { className: "mark-label" });
  const node = element("div", { className: "track" }, picture, label);

  function update(points, maxMc, nowMs) {
    const known = points.filter((each) => each[1] !== null && each[0] > nowMs - TRACK_S * 1000);
    const low = Math.min(maxMc - 30000, ...known.map((each) => each[1] - 3000));
    const high = Math.max(maxMc + 6000, ...known.map((each) => each[1] + 3000));
    const y = (mc) => Math.round(((high - mc) / (high - low)) * 1000) / 10;
    const x = (ms) => Math.round(TRACK_S - (nowMs - ms) / 1000);
    const edges = [0, ...[...STEPS_MC].reverse().flatMap((each) => [y(maxMc - each), y(maxMc - each)]), 100];
    edges.forEach((each, i) => put(stops[i], "offset", String(Math.min(Math.max(each, 0), 100) / 100)));
    const runs = [];
    known.forEach(([ms, mc], i) => {
      if (!i || ms - known[i - 1][0] > GAP_MS) runs.push([]);
      runs.at(-1).push(`${x(ms)} ${y(mc)}`);
    });
    put(line, "d", runs.map((run) => `M${run.join("L")}${run.length < 2 ? "h1" : ""}`).join(""));
    put(area, "d", runs.map((run) => `M${run[0].split(" ")[0]} 100L${run.join("L")}V100Z`).join(""));
    put(mark, "y1", y(maxMc));
    put(mark, "y2", y(maxMc));
    say(label, degrees(maxMc));
    label.style.top = `${y(maxMc)}%`;
  }
  return { node, update };
}

// As many models as can be read, those at work first; the last chip counts the others.
function readable(models) {
  const busy = (each) => (each.running ? 2 : each.state === "loading" ? 1 : 0);
  const ranked = [...models].sort((a, b) => busy(b) - busy(a));
  if (ranked.length <= MOST_CHIPS) return ranked;
  const others = ranked.splice(MOST_CHIPS - 1);
  return [...ranked, { name: `+${others.length}`, state: "others", others: others.map((each) => each.name).join(", ") }];
}

function makeChip() {
  const node = element("li", { className: "chip" });
  return {
    node,
    update(model) {
      say(node, model.state === "loading" ? `${model.name} …` : model.name);
      put(node, "title", model.others || model.name);
      put(node, "data-state", model.running ? "running" : model.state);
      put(node, "aria-label", model.others ? `and ${model.others}` : `${model.name}, ${model.state === "loading" ? "being loaded" : model.running ? "answering" : "in memory"}`);
    },
  };
}

function pace(each) {
  const parts = [];
  if (each.tokens_per_s) parts.push(`${each.tokens_per_s.toFixed(each.tokens_per_s < 10 ? 1 : 0)} tokens/s`);
  else if (each.what === "load") parts.push("loads");
  else parts.push(each.cold ? "loads for it" : each.state === "assigned" ? "sent" : "reads the question");
  if (each.ends_in_ms > 0) parts.push(`done in about ${rough(each.ends_in_ms)}`);
  else if (each.age_ms >= 1000) parts.push(`for ${rough(each.age_ms)}`);
  return parts.join(" · ");
}

function makeDoing(mine) {
  const who = element("bdi", { className: "who" }), model = element("bdi", { className: "model" });
  const fill = element("i", {}), said = element("span", { className: "pace" });
  const bar = element("div", { className: "progress", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
  const node = element("li", {}, element("p", {}, who, model), bar, said);
  return {
    node,
    update(each) {
      who.hidden = each.what === "load";
      sayName(who, each.client);
      sayName(model, each.model);
      node.className = `doing ${each.what} tint-${tint(each.client || "")} ${mine(each.id) ? "mine" : ""}`;
      const known = each.progress_permille !== null && each.progress_permille !== undefined;
      bar.classList.toggle("unknown", !known);
      fill.style.width = known ? `${Math.min(each.progress_permille, 1000) / 10}%` : "100%";
      put(bar, "aria-label", `${each.client || "load"} ${each.model}`);
      if (known) put(bar, "aria-valuenow", String(Math.round(each.progress_permille / 10)));
      else bar.removeAttribute("aria-valuenow");
      say(said, pace(each));
    },
  };
}

function whyNot(node, nowMs) {
  if (node.why) {
    const passed = node.state === "stale" ? "" : ` (${rough(nowMs - node.since_ms)})`; // its reason says so
    const since = node.since_ms ? `since ${clock(node.since_ms).slice(0, 5)}${passed}` : "";
    return [node.why, [since, node.until].filter(Boolean).join(" · ")];
  }
  if (!node.inference) return [node.role, ""];
  return [node.doing.length ? "" : "Free", ""];
}

function makeCard(node, open, mine) {
  const title = element("button", { type: "button", className: "open", "aria-haspopup": "dialog" }, name(node.short || node.name));
  const role = element("span", { className: "role" }), pretended = element("span", { className: "simulated" }, "simulated");
  const warm = element("p", { className: "degrees" }), track = makeTrack();
  const fill = element("i", { className: "fill" }), full = element("i", { className: "full" });
  const ram = element("div", { className: "gauge", role: "img" }, fill, full);
  const ramSaid = element("span", { className: "ram-said" });
  const chips = element("ul", { className: "chips", "aria-label": "Models in memory" });
  const doing = element("ul", { className: "doings" }), more = element("p", { className: "muted more" });
  const why = element("p", { className: "why" }), until = element("p", { className: "until" });
  const now = element("div", { className: "now" }, doing, more, why, until);
  const card = element("article", { className: "card node", "data-node": node.name },
    element("header", {}, element("h2", {}, title), role, pretended),
    element("div", { className: "warm" }, warm, track.node),
    element("div", { className: "ram" }, element("span", { className: "muted" }, "RAM"), ram, ramSaid),
    chips,
    now);
  title.addEventListener("click", () => open(node.name));

  function update({ each, points, nowMs, simulated, crowded }) {
    const silent = DEAD.has(each.state);
    card.className = `card node ${each.inference ? "" : "robot"} ${silent ? "silent" : ""}`;
    put(card, "data-tone", each.tone);
    put(title, "title", `${each.name}: its day`);
    say(role, each.inference ? each.role : "");
    pretended.hidden = !simulated;
    const known = each.temp_mc !== null && each.temp_mc !== undefined;
    say(warm, known ? degrees(each.temp_mc) : "–");
    warm.className = known ? `degrees warm-${warmth(each.temp_mc, each.temp_max_mc)}` : "degrees unknown";
    put(warm, "aria-label", known ? `${degrees(each.temp_mc)}, mark ${degrees(each.temp_max_mc)}` : "no temperature");
    track.update(points, each.temp_max_mc, nowMs);
    const permille = each.ram_total_mb ? (each.ram_used_mb / each.ram_total_mb) * 1000 : 0;
    fill.style.width = `${Math.min(permille, 1000) / 10}%`;
    full.style.left = `${each.ram_max_permille / 10}%`;
    ram.classList.toggle("over", permille >= each.ram_max_permille);
    const amount = each.ram_total_mb ? `${gigabytes(each.ram_used_mb)} of ${gigabytes(each.ram_total_mb)} GB` : "unknown";
    say(ramSaid, amount);
    put(ram, "aria-label", `Memory: ${amount}, mark ${Math.round(each.ram_max_permille / 10)} %`);
    keep(chips, readable(each.models), (model) => `${model.state === "others"} ${model.name}`, makeChip);
    const [reason, what] = whyNot(each, nowMs);
    const shown = each.doing.slice(0, crowded ? 1 : MOST_DOING - Boolean(reason)); // the reason has its place
    const keyOf = (one) => `${one.what} ${one.number || `over ${shown.indexOf(one)}`} ${one.model}`; // 0: of no request
    keep(doing, shown, keyOf, () => makeDoing(mine));
    say(more, each.doing.length > shown.length ? `and ${each.doing.length - shown.length} more` : "");
    put(now, "data-doing", String(Math.min(shown.length + Boolean(reason), MOST_DOING)));
    say(why, reason);
    say(until, what);
  }
  return { node: card, update };
}

export function fillCards(view, nowMs, { open, mine }) {
  const host = byId("nodes");
  const nodes = [...view.nodes].sort((a, b) => b.inference - a.inference); // the robot last
  const rows = nodes.map((each) => ({
    each, nowMs, points: view.track[each.name] || [], simulated: (view.simulated || []).includes(each.name),
    crowded: nodes.length > 4,
  }));
  host.dataset.count = rows.length;
  host.style.setProperty("--columns", rows.length > 4 ? Math.ceil(rows.length / 2) : Math.max(rows.length, 1));
  keep(host, rows, (row) => row.each.name, (row) => makeCard(row.each, open, mine));
  host.classList.toggle("empty", !rows.length);
  host.classList.toggle("dense", rows.length > 4);
}
