// A box to ask a question, and what becomes of it.

import { post } from "./api.js";
import { byId, element } from "./format.js";
import { say } from "./keyed.js";
import { inTime } from "./queue.js";
import { rough } from "./words.js";

const MOST_MINE = 50, MOST_LETTERS = 20000;
const mineIds = new Set();
let running = null, told = "", models = "";

// Whether a request in the view was asked here.
export const mine = (id) => Boolean(id) && mineIds.has(id.split("/").at(-1));

function note(id) {
  mineIds.add(id);
  if (mineIds.size > MOST_MINE) mineIds.delete(mineIds.values().next().value);
}

function where(view) {
  const queue = inTime(view.queue), place = queue.findIndex((each) => mine(each.id));
  if (place >= 0) {
    const { eta_ms: eta, why } = queue[place];
    return `Waits, ${place ? `${place} before it` : "the next one"}${eta ? `, about ${rough(eta)}` : ""}${why ? `: ${why.replace(/^waits /, "")}` : ""}`;
  }
  for (const node of view.nodes) {
    const run = node.doing.find((each) => mine(each.id));
    if (run) return `On ${node.short || node.name}${run.ends_in_ms ? `, done in about ${rough(run.ends_in_ms)}` : ""}`;
  }
  return "Sent …";
}

export function fillAsk(view, live, away) {
  byId("ask").hidden = !live || view.caller.view_only || !view.models.length;
  byId("main").classList.toggle("no-box", byId("ask").hidden);
  byId("ask-send").disabled = away && !running; // Enter asks as little
  const fresh = view.models.join("\n");
  if (fresh !== models) {
    models = fresh;
    const select = byId("ask-model"), chosen = select.value;
    select.replaceChildren(...view.models.map((each) => element("option", { value: each }, each)));
    if (view.models.includes(chosen)) select.value = chosen;
  }
  say(byId("ask-where"), running ? where(view) : told || (away ? "Nothing can be asked while the page is cut off." : "Your question will carry a blue ring."));
  byId("ask-where").classList.toggle("muted", !running && !told);
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const rows = (rest + (value || "")).split("\n");
    rest = done ? "" : rows.pop();
    for (const row of rows) if (row.trim()) yield JSON.parse(row);
    if (done) return;
  }
}

async function answer(model, prompt, signal) {
  const reply = await post("/api/generate", { model, prompt, stream: true }, { signal });
  const id = reply.headers.get("X-Orion-Id");
  if (id) note(id);
  const host = byId("ask-answer");
  for await (const row of lines(reply.body)) {
    if (row.error) throw new Error(row.error);
    if (row.response) {
      host.hidden = false;
      if (host.textContent.length < MOST_LETTERS) host.append(row.response);
      host.scrollTop = host.scrollHeight;
    }
    if (row.done) return row.orion?.node ? `Answered by ${row.orion.node}` : "Answered";
  }
  throw new Error("The answer broke off.");
}

async function send(event) {
  event.preventDefault();
  if (running) return running.abort();
  if (!byId("ask-prompt").value.trim()) return undefined;
  running = new AbortController();
  byId("ask-answer").replaceChildren();
  byId("ask-answer").hidden = true;
  say(byId("ask-send"), "Stop");
  say(byId("ask-where"), "Sent …");
  try {
    told = await answer(byId("ask-model").value, byId("ask-prompt").value, running.signal);
  } catch (error) {
    told = error.name === "AbortError" ? "Stopped." : error.message;
  }
  running = null;
  say(byId("ask-send"), "Ask");
  return say(byId("ask-where"), told);
}

export const startAsk = () => byId("ask-form").addEventListener("submit", send);
