// The grid now and then: what was heard last, where the page is in time, and what is drawn of it.

import { ask, get, onRefused, Stream } from "./api.js";
import { fillAsk, mine, startAsk } from "./ask_box.js";
import { fillCards } from "./cards.js";
import { fillDecisions } from "./decisions.js";
import { byId, clock, day } from "./format.js";
import { put, say } from "./keyed.js";
import { askForKey, openDay, openWhy, startPanels } from "./panels.js";
import { fillQueue } from "./queue.js";
import { addTicks, fillBar, startBar } from "./time_bar.js";
import { merged } from "./views.js";
import { rough } from "./words.js";

const TICK_MS = 1000, CUT_MS = 5000, IDLE_MS = 120000, SCAN_MS = 2000, TIMELINE_MS = 60000;
const page = { live: null, takenAt: 0, past: null, aimMs: null, wanted: null, problem: "" };
let idle = 0, scan = 0, travelling = false, trip = 0;

const passed = () => performance.now() - page.takenAt;
const nowMs = () => (page.live ? page.live.at_ms + passed() : Date.now());
const silentMs = () => (page.live ? page.live.heard_ms_ago + passed() : passed());
const position = () => page.past?.position;

function take(view) {
  page.live = merged(page.live, view);
  page.takenAt = performance.now();
  addTicks(view.ticks);
  draw();
}

// How it stands when nothing is heard: what is shown is old, and the page says so first.
function cut() {
  if (page.past) return "";
  if (passed() > CUT_MS) return "gateway";
  return page.live && page.live.heard_ms_ago > CUT_MS ? "redis" : "";
}

function sentence(view, away) {
  if (away === "gateway") return page.live ? `Last heard ${rough(silentMs())} ago` : "Cannot reach the gateway";
  return view ? view.sentence : "Looking at the grid …";
}

function reasons(view, away) {
  if (page.problem) return page.problem;
  if (away === "gateway") return "The gateway does not answer. The page tries again by itself.";
  if (away === "redis") return "The gateway answers; the nodes are shown as they were then.";
  return view ? view.reasons.slice(0, 3).join(" · ") : "";
}

function drawHead(view, away) {
  const root = document.documentElement, said = sentence(view, away);
  say(byId("sentence"), said);
  byId("sentence").style.setProperty("--letters", Math.max(said.length, 26));
  say(byId("reasons"), reasons(view, away));
  put(root, "data-tone", away ? "away" : view ? view.tone : "away");
  put(root, "data-mode", page.past ? "past" : "live");
  root.toggleAttribute("data-cut", away !== "");
  const ms = page.past ? page.past.at_ms : nowMs();
  const other = day(ms) === day(nowMs()) ? "" : `${day(ms).slice(5)} `;
  say(byId("clock"), page.past ? `${other}${clock(ms)}, not live` : clock(ms));
  say(byId("mode"), page.past ? "then" : away ? "cut off" : "live");
  byId("back").hidden = !page.past;
  const caller = view?.caller || {};
  byId("caller").hidden = !caller.name;
  say(byId("caller-name"), `${caller.name}${caller.view_only ? ", looks only" : ""}`);
  document.title = page.past ? `${clock(ms)}, not live` : `${said} · orion-streams`;
  const tone = away || view?.tone || "";
  if (byId("told").dataset.tone !== tone) { // said aloud when it changes, not each second
    byId("told").dataset.tone = tone;
    say(byId("told"), said);
  }
}

function draw() {
  const view = page.past || page.live, away = cut();
  drawHead(view, away);
  fillBar(nowMs(), page.aimMs ?? page.past?.at_ms ?? null);
  if (!view) return;
  fillCards(view, page.past ? view.at_ms : nowMs(), { open: (node) => openDay(node, position()), mine });
  fillQueue(view, { open: (request) => openWhy(request, position()), mine });
  fillDecisions(view);
  fillAsk(view, !page.past, away !== "");
}

// The view of another moment; of many that are wanted while one is on its way only the last one is asked for.
async function travel(query) {
  page.wanted = query;
  if (travelling) return;
  travelling = true;
  while (page.wanted) {
    const wanted = page.wanted, begun = trip;
    page.wanted = null;
    try {
      const view = await get(`/orion/v1/past?${new URLSearchParams(wanted)}`);
      if (begun === trip) show(view);
    } catch (error) {
      if (begun === trip) page.problem = error.status === 401 ? "" : error.message; // a key is asked for
      stir();
    }
    if (!page.wanted) page.aimMs = null;
    draw();
  }
  travelling = false;
}

function show(view) {
  page.past = view;
  page.problem = "";
  if (location.hash !== `#at=${view.position}`) history.replaceState(null, "", `#at=${view.position}`);
  stir();
}

function goLive() {
  page.past = page.wanted = page.aimMs = null;
  page.problem = "";
  trip += 1;
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  clearTimeout(idle);
  draw();
}

// Who does nothing for two minutes sees the grid as it is, and no complaint about what was asked for.
function stir() {
  clearTimeout(idle);
  if (page.past || page.problem) idle = setTimeout(goLive, IDLE_MS);
}

const zone = (ms = Date.now()) => String(-new Date(ms).getTimezoneOffset()); // of that day: summer has its own
function seek(ms) {
  page.aimMs = ms; // the handle follows at once
  fillBar(nowMs(), ms);
  travel({ at: new Date(ms).toISOString(), tz: zone(ms) });
}

const visit = (at) => travel({ at: String(at) });

function followHash() {
  const found = /^#at=(\d{1,16})$/.exec(location.hash);
  if (found) visit(found[1]);
  else if (page.past) goLive();
}

function goTo(event) {
  event.preventDefault();
  const text = byId("go-to").value.trim().replace(/(\d)[,\u202f\u00a0](?=\d)/g, "$1");
  if (!text || /^(now|live)$/i.test(text)) goLive();
  else travel({ at: text, tz: zone(typed(text)) });
}

// When a date was that is typed with its year, or without: the last one.
function typed(text) {
  const whole = text.replace(/\b\d\b/g, "0$&").replace(" ", "T").replace(/\.(?=\d\d$)/, ":"), year = new Date().getFullYear();
  const dates = /^\d{4}-/.test(whole) ? [whole] : /^\d\d-/.test(whole) ? [`${year}-${whole}`, `${year - 1}-${whole}`] : [];
  return dates.map((each) => Date.parse(each)).find((ms) => ms <= Date.now() || dates.length === 1) || Date.now();
}

async function loadTimeline() {
  clearTimeout(scan);
  let again = TIMELINE_MS;
  try {
    const found = document.hidden ? { ticks: [] } : await get("/orion/v1/timeline");
    addTicks(found.ticks, found.complete ? found.from_ms : 0);
    if (found.complete === false) again = SCAN_MS;
  } catch {
    // the stream says that the gateway is away
  }
  scan = setTimeout(loadTimeline, again);
}

const stream = new Stream(take);
function start() {
  stream.close();
  stream.open();
  loadTimeline();
  followHash();
}

async function forget() {
  await ask("/orion/v1/session", { method: "DELETE" }).catch(() => {});
  location.reload();
}

startBar({ seek, visit, goLive });
startPanels(start);
startAsk();
onRefused(askForKey);
byId("back").addEventListener("click", goLive);
byId("forget").addEventListener("click", forget);
byId("go-form").addEventListener("submit", goTo);
addEventListener("hashchange", followHash);
for (const each of ["pointerdown", "pointermove", "keydown"]) addEventListener(each, stir, { passive: true });
new ResizeObserver(draw).observe(byId("queue"));
setInterval(() => { stream.check(); if (!document.hidden && passed() > TICK_MS) draw(); }, TICK_MS);
start();
