// The table of anomalies, the one that was chosen, and the decisions in view.

const MAX_LISTED = 40;
const kinds = packed.kinds.map(([key, title, meaning, found]) => ({ key, title, meaning, found }));
const CROWD = 40; // so many findings of one kind would bury the others: they are listed once asked for
const crowds = kinds.filter((kind) => kind.found > CROWD && kinds.some((other) => other !== kind && other.found > 0 && other.found <= CROWD));
const hiddenKinds = new Set(crowds.map((kind) => kinds.indexOf(kind)));

function positions(each) {
  return each.first === each.last ? count(each.first) : `${count(each.first)} – ${count(each.last)}`;
}

function when(each) {
  if (each.ongoing) return `${moment(each.begin)} –`;
  if (each.end === each.begin) return moment(each.begin);
  return date(each.begin) + stretchOfTime(each.begin, each.end, isShort);
}

function kindBadge(kind) {
  return element("span", { className: `badge kind-${kind.key}`, title: kind.meaning }, kind.title);
}

function rowOf(each) {
  const link = element("a", { href: `#anomaly-${each.number + 1}` }, when(each));
  link.setAttribute("aria-label", `Show ${when(each)} in the timeline: ${kinds[each.kind].title}`);
  const about = [each.node, each.request].filter(Boolean).map((text) => name(text, "about"));
  const row = element(
    "tr",
    { "data-number": each.number },
    element("td", { className: "when" }, link),
    element("td", { className: "positions" }, positions(each)),
    element("td", { className: "kind" }, kindBadge(kinds[each.kind])),
    element("td", { className: "what" }, ...about, element("bdi", {}, each.sentence)),
  );
  row.addEventListener("click", (event) => {
    if (event.target !== link) location.hash = `anomaly-${each.number + 1}`;
  });
  return row;
}

const listed = () => report.anomalies.filter((each) => !hiddenKinds.has(each.kind));

function fillTable() {
  const rows = listed().map(rowOf);
  kinds.forEach((kind, n) => {
    const left = kind.found - report.anomalies.filter((each) => each.kind === n).length;
    if (left > 0 && !hiddenKinds.has(n)) {
      const text = `and ${count(left)} more of the kind “${kind.title}”, none of them longer than these`;
      rows.push(element("tr", { className: "more" }, element("td", { colSpan: 4 }, text)));
    }
  });
  if (!rows.length) rows.push(element("tr", { className: "more" }, element("td", { colSpan: 4 }, "Nothing out of the ordinary was found.")));
  byId("rows").replaceChildren(...rows);
  markChosen();
}

function fillKinds() {
  const found = kinds.map((kind, n) => ({ ...kind, n })).filter((kind) => kind.found);
  byId("kinds").replaceChildren(...found.map((kind) => {
    const chip = element("button", { type: "button", className: `chip kind-${kind.key}`, title: kind.meaning, "aria-pressed": String(!hiddenKinds.has(kind.n)) },
      kind.title, element("span", { className: "number" }, count(kind.found)));
    chip.addEventListener("click", () => {
      if (!hiddenKinds.delete(kind.n)) hiddenKinds.add(kind.n);
      chip.setAttribute("aria-pressed", String(!hiddenKinds.has(kind.n)));
      fillTable();
    });
    return chip;
  }));
  const total = found.reduce((sum, kind) => sum + kind.found, 0);
  const left = crowds.map((kind) => `${count(kind.found)} of the kind “${kind.title}” are listed once you switch them on.`);
  byId("anomalies-note").textContent = total ? ["Choose one to see it in the timeline.", ...left].join(" ") : "";
  byId("meanings").replaceChildren(...found.flatMap((kind, i) => [
    i ? " · " : "What counts: ", element("b", {}, kind.title), `: ${kind.meaning}`,
  ]));
  return total;
}

function markChosen() {
  for (const row of byId("rows").children) {
    const is = chosen !== null && row.dataset.number === String(chosen.number);
    row.classList.toggle("is-chosen", is);
    if (is) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  byId("chosen").hidden = chosen === null || chosen.number === undefined;
  markRequest();
  if (chosen !== null && chosen.number !== undefined) {
    const place = listed().indexOf(chosen);
    const of = place < 0 ? "" : `${place + 1} of ${listed().length} `;
    byId("chosen-text").replaceChildren(element("span", { className: "muted" }, of), kindBadge(kinds[chosen.kind]), " ", element("bdi", {}, chosen.sentence));
  }
}

// Zoom all charts to a finding, with some time around it, and mark it there.
function choose(each) {
  chosen = each;
  const around = Math.max((each.end - each.begin) / 4, Math.min(15000, (report.to - report.from) / 20));
  show(each.begin - around, each.end + around);
  markChosen();
  measureToolbar();
  for (const card of document.querySelectorAll("[data-node]")) {
    card.classList.toggle("is-chosen", each.node !== "" && card.dataset.node === each.node);
  }
  const behaviour = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  const card = [...document.querySelectorAll("[data-node]")].find((one) => one.dataset.node === each.node);
  (card || byId("timeline")).scrollIntoView({ behavior: behaviour, block: "start" });
}

// What is scrolled to must not hide behind the toolbar.
function measureToolbar() {
  document.documentElement.style.setProperty("--toolbar", `${byId("toolbar").offsetHeight}px`);
}

function letGo() {
  chosen = null;
  markChosen();
  for (const card of document.querySelectorAll("[data-node]")) card.classList.remove("is-chosen");
  for (const each of charts) each.redraw(false);
}

function followHash() {
  const match = /^#anomaly-(\d+)$/.exec(location.hash);
  if (match && report.anomalies[match[1] - 1]) choose(report.anomalies[match[1] - 1]);
  const request = /^#request-(\d+)$/.exec(location.hash);
  const slow = request && slowest.find((each) => each.last === Number(request[1]));
  if (slow) choose(slow);
  else if (location.hash === "#longest-wait" && longestWait) choose(longestWait);
}

const longestWait = packed.longest && {
  ...span(packed.longest, 0), node: "", request: word(packed.longest[4]),
};
if (longestWait && longestWait.end === null) longestWait.end = report.to;

function step(by) {
  const ofRequests = chosen !== null && chosen.said !== undefined;
  const all = ofRequests ? sorted() : listed();
  if (!all.length) return;
  const place = all.indexOf(chosen);
  const next = all[(place + by + all.length) % all.length];
  location.hash = ofRequests ? `request-${next.last}` : `anomaly-${next.number + 1}`;
}

// The same as the markers' boxes, for who has no pointer.
function listDecisions() {
  const inView = [...report.attempts, ...report.deferrals]
    .filter((each) => each.verdicts.length && each.begin >= view.from && each.begin <= view.to)
    .sort((a, b) => a.first - b.first);
  const rows = inView.slice(0, MAX_LISTED).map((each) => element(
    "details", {},
    element("summary", {},
      element("span", { className: "time" }, moment(each.begin, true)),
      element("span", { className: "muted position" }, count(each.first)),
      name(each.request), ` ${decided(each)}`),
    verdictTable(each.verdicts, each.node || each.waitsFor),
  ));
  const left = inView.length - rows.length;
  if (left > 0) rows.push(element("p", { className: "more" }, `and ${count(left)} more: zoom in to list them`));
  byId("decisions").replaceChildren(...rows);
  byId("decisions").hidden = !rows.length;
  byId("decisions-note").textContent = inView.length
    ? `${plural(inView.length, "decision")}, each with the verdict on every node.`
    : "None in this range.";
}
