// Requests that have ended: percentiles, what their time was spent on, and a table of the slowest.

const MAX_ROWS_SHOWN = 25;
const MEASURES = ["to the answer", "waiting", "loading, if it had to", "to the first token"];
const ORDERS = { begin: -1, totalMs: -1, waitedMs: -1, loadMs: -1 };
const OUTCOMES = { done: "answered", error: "error", expired: "expired", cancelled: "cancelled" };

function slowRequest(row) {
  const [, , , , request, model, node, outcome, code, attempts, totalMs, waitedMs, loadMs, firstMs, runMs, tokens, said] = row;
  return {
    ...span(row, 0), request: word(request), model: word(model), node: word(node), outcome: word(outcome), code: word(code),
    attempts, totalMs, waitedMs, loadMs, firstMs, runMs, tokens, said: said.replace(/(\d) (?=ms|s\b|min|°C|%)/g, `$1${UNIT}`),
  };
}

const slowest = packed.slowest.map(slowRequest);
const longestMs = Math.max(1, ...slowest.map((each) => each.totalMs));
let order = "totalMs", shownRows = MAX_ROWS_SHOWN;

const sorted = () => [...slowest].sort((a, b) => ORDERS[order] * (a[order] - b[order]) || a.last - b.last);

// Waiting, loading, answering and what is left, as parts of a bar.
function partsOf(each) {
  const load = Math.min(each.loadMs, each.runMs);
  const parts = [["wait", each.waitedMs], ["load", load], ["answer", each.runMs - load]];
  const rest = each.totalMs - each.waitedMs - each.runMs;
  return rest > 0 ? [...parts, ["rest", rest]] : parts;
}

function bar(parts, whole, className) {
  const pieces = parts.filter(([, ms]) => ms > 0).map(([kind, ms, title]) => {
    const piece = element("i", { className: `part for-${kind}`, title: title || "" });
    piece.style.width = `${(ms / whole) * 100}%`;
    return piece;
  });
  return element("span", { className, role: "presentation" }, ...pieces);
}

function outcomeOf(each) {
  const how = OUTCOMES[each.outcome] + (each.code ? ` (${each.code})` : "");
  const tries = each.attempts > 1 ? ` · ${plural(each.attempts, "attempt")}` : "";
  const where = each.node ? [" by ", name(each.node, "node")] : [];
  const tokens = each.outcome === "done" && each.tokens ? ` · ${plural(each.tokens, "token")}` : "";
  return [element("span", { className: `outcome ${each.outcome}` }, how), ...(each.outcome === "done" ? where : []), tokens + tries];
}

const figureCell = (label, ms) => element("td", { className: "figure", "data-label": label }, ms > 0 ? duration(ms) : "–");

function slowRow(each) {
  const link = element("a", { href: `#request-${each.last}` }, moment(each.begin));
  link.setAttribute("aria-label", `Show ${each.request} in the timeline, ${moment(each.begin)}`);
  const row = element("tr", { "data-request": String(each.last) },
    element("td", { className: "when" }, link),
    element("td", { className: "who" }, name(each.request), element("span", { className: "muted model" }, element("bdi", {}, each.model))),
    element("td", { className: "figure total", "data-label": "total" }, duration(each.totalMs), bar(partsOf(each), longestMs, "bar small")),
    figureCell("waited", each.waitedMs), figureCell("load", each.loadMs),
    element("td", { className: "what" }, element("p", {}, element("bdi", {}, each.said)), element("p", { className: "muted" }, ...outcomeOf(each))),
  );
  row.addEventListener("click", (event) => {
    if (event.target !== link) location.hash = `request-${each.last}`;
  });
  return row;
}

function fillSlowest() {
  const all = sorted();
  const rows = all.slice(0, shownRows).map(slowRow);
  if (all.length > shownRows) {
    const more = element("button", { type: "button", className: "more-rows" }, `Show ${count(all.length - shownRows)} more`);
    more.addEventListener("click", () => { shownRows = Infinity; fillSlowest(); });
    rows.push(element("tr", { className: "more" }, element("td", { colSpan: 6 }, more)));
  }
  byId("slow-rows").replaceChildren(...rows);
  for (const head of document.querySelectorAll("#slow th[data-order]")) {
    if (head.dataset.order === order) head.setAttribute("aria-sort", "descending");
    else head.removeAttribute("aria-sort");
  }
  markRequest();
}

// The one that is chosen: its row, and its sentence above the timeline.
function markRequest() {
  const is = chosen !== null && chosen.said !== undefined;
  for (const row of byId("slow-rows").children) {
    const its = is && row.dataset.request === String(chosen.last);
    row.classList.toggle("is-chosen", its);
    if (its) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  if (!is) return;
  byId("chosen").hidden = false;
  const place = `${sorted().indexOf(chosen) + 1} of ${slowest.length} `;
  byId("chosen-text").replaceChildren(
    element("span", { className: "muted" }, place), name(chosen.request), ` took ${duration(chosen.totalMs)}: `, element("bdi", {}, chosen.said),
  );
}

function spentLegend() {
  const whole = packed.spent.reduce((sum, [, , ms]) => sum + ms, 0);
  const share = (ms) => (ms / whole >= 0.01 ? `${Math.round((ms / whole) * 100)}${UNIT}%` : `less than 1${UNIT}%`);
  const items = packed.spent.map(([kind, words, ms]) => element("li", {},
    element("i", { className: `swatch part for-${kind}` }), element("span", {}, `${words} `, element("b", {}, duration(ms)), ` (${share(ms)})`)));
  const parts = packed.spent.map(([kind, words, ms]) => [kind, ms, `${words}: ${duration(ms)}`]);
  byId("spent").replaceChildren(
    element("p", {}, "What the time of all answered requests was spent on, together ", element("b", {}, duration(whole))),
    bar(parts, whole, "bar"), element("ul", { className: "legend" }, ...items),
  );
  byId("spent").hidden = whole === 0;
}

// Only what was measured: not every client asks for a stream, not every log has a load.
const measured = MEASURES.map((label, n) => ({ label, n })).filter(({ n }) => packed.groups.some((row) => row[4 + n][0]));

function percentileHead() {
  const head = (text, properties) => element("th", { scope: "col", ...properties }, text);
  const above = measured.map(({ label }) => head(label, { scope: "colgroup", colSpan: 3 }));
  const below = measured.flatMap(() => ["p50", "p90", "p99"].map((text) => head(text)));
  return [
    element("tr", {}, element("td"), element("td"), ...above),
    element("tr", {}, element("td"), head("answered"), ...below),
  ];
}

function percentileRow([kind, named, answered, otherwise, ...measures]) {
  const who = kind === "all" ? "all requests" : [element("span", { className: "muted" }, `${kind} `), name(word(named))];
  const ends = count(answered) + (otherwise ? ` (+${UNIT}${count(otherwise)} not)` : "");
  const cells = measured.flatMap(({ label, n }) => {
    const [of, ...figures] = measures[n];
    return figures.map((ms, i) => element("td", {
      className: `figure${i ? "" : " first"}`, "data-label": i ? "" : label, title: `of ${plural(of, "request")}`,
    }, of ? duration(ms) : "–"));
  });
  return element("tr", { className: kind }, element("th", { scope: "row" }, ...[who].flat()),
    element("td", { className: "figure answered" }, ends), ...cells);
}

function fillPercentiles() {
  byId("percentile-head").replaceChildren(...percentileHead());
  byId("percentile-rows").replaceChildren(...packed.groups.map(percentileRow));
  byId("percentiles").hidden = !packed.groups.length;
}

function fillRequests() {
  const ended = packed.groups.length ? packed.groups[0][2] + packed.groups[0][3] : 0;
  byId("requests").hidden = ended === 0;
  const [, , answered, , [measuredOf] = [0]] = packed.groups[0] || [];
  byId("requests-note").textContent = "p50, p90 and p99: half, nine of ten and 99 of 100 of the answered requests took at most so long."
    + (measuredOf < answered ? ` Computed of ${count(measuredOf)} of them, spread evenly over time.` : "");
  byId("slow-note").textContent = (slowest.length < ended ? `${count(slowest.length)} of ${count(ended)}: the slowest in all, by wait and by load. ` : "")
    + "Choose one to see it in the timeline.";
  for (const head of document.querySelectorAll("#slow th[data-order]")) {
    head.querySelector("button").addEventListener("click", () => { order = head.dataset.order; fillSlowest(); });
  }
  spentLegend();
  fillPercentiles();
  fillSlowest();
}
