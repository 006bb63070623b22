// The page: its head, a card for each node, and what moves it.

const ended = packed.counts.ended;
const ENDINGS = [["done", "answered"], ["error", "ended as errors"], ["expired", "expired"], ["cancelled", "cancelled"]];

function figure(label, ...value) {
  return element("div", {}, element("dt", {}, label), element("dd", {}, ...value));
}

function fillHead(anomalies) {
  byId("source").replaceChildren(element("bdi", {}, packed.source));
  document.title = `Incident report: ${packed.source}`;
  byId("span").textContent = `${day(report.from)} ${stretchOfTime(report.from, report.to)} `
    + `(${duration(packed.to - packed.from)}; ${zone(report.from)}) · positions ${count(packed.first)} to ${count(packed.last)}`;
  const figures = [figure("events", count(packed.events)), figure("requests", count(packed.counts.accepted))];
  for (const [key, label] of ENDINGS) if (key === "done" || ended[key]) figures.push(figure(label, count(ended[key] || 0)));
  if (packed.counts.open) figures.push(figure("open at the end", count(packed.counts.open)));
  if (longestWait) {
    const link = element("a", { href: "#longest-wait" }, duration(longestWait.end - longestWait.begin));
    figures.push(figure("longest wait", link, element("small", {}, name(longestWait.request))));
  }
  const [, , , , total] = packed.groups[0] || [];
  if (total && total[0]) figures.push(figure("half answered within", duration(total[1])), figure("9 of 10 within", duration(total[2])));
  figures.push(figure("anomalies", count(anomalies)));
  byId("figures").replaceChildren(...figures);
  byId("remarks").textContent = remarks().join(" ");
}

function remarks() {
  const { rejected, resent, unreadable } = packed.counts;
  const found = [];
  if (packed.simulated.length) found.push(`SIMULATED, no real machines: ${packed.simulated.join(", ")}.`);
  if (rejected) found.push(`${plural(rejected, "request was", "requests were")} rejected and never accepted.`);
  if (resent) found.push(`${plural(resent, "request")} came again under a known id.`);
  if (unreadable) found.push(`${plural(unreadable, "other entry was", "other entries were")} refused.`);
  if (packed.back) found.push(`The server's clock went back by up to ${duration(packed.back)}: what happened meanwhile stands at the time before.`);
  if (packed.more.machines) found.push(`${plural(packed.more.machines, "more node")} without a chart.`);
  return found;
}

function fillResolution() {
  const width = Math.max(0, ...packed.machines.map((each) => each.health.width));
  const notes = [`Health in steps of ${width / 1000} s, with the lowest and the highest value of each.`];
  if (packed.more.attempts) {
    notes.push(`${count(report.attempts.length)} of ${count(report.attempts.length + packed.more.attempts)} attempts are drawn: those that went wrong or waited, then the longest.`);
  }
  if (packed.more.deferrals) notes.push(`${plural(packed.more.deferrals, "more decision")} to wait without a marker.`);
  if (packed.more.stays) notes.push(`${plural(packed.more.stays, "shorter stay")} of models without a bar.`);
  byId("resolution").textContent = notes.join(" ");
}

function fillLegend() {
  const entries = [
    ["outcome-done", "answered"], ["outcome-failed", "attempt failed"], ["outcome-abandoned", "given up"],
    ["outcome-expired", "expired"], ["outcome-cancelled", "cancelled"], ["outcome-error", "ended as an error"], ["outcome-open", "still open"],
  ].filter(([key]) => report.attempts.some((each) => `outcome-${each.outcome}` === key));
  const items = entries.map(([key, label]) => element("li", {}, element("i", { className: `swatch ${key}` }), label));
  items.push(
    element("li", {}, element("i", { className: "swatch sent" }), "sent, not begun"),
    element("li", {}, element("i", { className: "swatch diamond" }), "decision: point at it for the verdicts"),
  );
  if (report.backoffs.length) items.push(element("li", {}, element("i", { className: "swatch backoff" }), "backed off"));
  if (report.silences.length) items.push(element("li", {}, element("i", { className: "swatch silent" }), "not heard from"));
  if (boots.length) items.push(element("li", {}, element("i", { className: "swatch boot" }), "agent ended, and a new one"));
  byId("legend").replaceChildren(...items);
}

const most = (values) => values.reduce((highest, each) => (each !== null && each > highest ? each : highest), -Infinity);

function facts(machine, [, temperature, , ram]) {
  const found = packed.simulated.includes(machine.name) ? ["SIMULATED"] : [];
  const hottest = most(temperature), fullest = most(ram);
  if (hottest > -Infinity) found.push(`at most ${hottest.toFixed(1)} °C`);
  if (fullest > -Infinity) found.push(`memory at most ${fullest.toFixed(1)} %`);
  const backoffs = report.backoffs.filter((each) => each.node === machine.name);
  if (backoffs.length) {
    const total = backoffs.reduce((sum, each) => sum + (each.end === null ? report.to : each.end) - each.begin, 0);
    found.push(`backed off ${backoffs.length === 1 ? "once" : `${count(backoffs.length)} times`}, ${duration(total)} in all`);
  }
  const trips = report.trips.filter((each) => each.node === machine.name);
  if (trips.length) found.push(`breaker opened ${trips.length === 1 ? "once" : `${count(trips.length)} times`}`);
  for (const [kind, words] of [["killed", "killed"], ["restart", "stopped or restarted"]]) {
    const times = bootsOf(machine.name).filter((each) => packed.kinds[each.kind][0] === kind).length;
    if (times) found.push(`its agent was ${words} ${times === 1 ? "once" : `${count(times)} times`}`);
  }
  if (!machine.inference) found.push("takes no requests");
  if (machine.gone) found.push("no longer configured at the log's end");
  return found;
}

function addMachine(machine) {
  const data = columns(machine.health, gapMs(machine.health), [1000, 10, 10], 0.5);
  const card = element("article", { className: "card machine", "data-node": machine.name },
    element("header", {}, element("h3", {}, name(machine.name)), element("p", { className: "muted" }, facts(machine, data).join(" · "))));
  byId("machines").append(card);
  const plot = (label) => {
    const host = element("div", { className: "plot", role: "img", "aria-label": `${machine.name}: ${label}` });
    card.append(host);
    return host;
  };
  const note = (text) => card.append(element("p", { className: "muted note" }, text));
  if (!machine.samples) note("The log has no health entry of this node.");
  else if (data[1].every((each) => each === null)) note(machine.sensor ? "The log has no temperature of this node." : "This node has no temperature sensor.");
  else temperatureChart(plot("temperature"), machine, data);
  if (machine.samples) loadChart(plot("CPU and memory"), machine, data);
  lanesChart(plot("models in memory and requests"), machine);
}

function addGrid() {
  const card = byId("grid");
  card.append(element("header", {}, element("h3", {}, "All requests"), element("p", { className: "muted" }, "how many waited, and how many were on a node")));
  for (const [label, make] of [["requests waiting and on a node", queueChart], ["decisions to wait", deferralChart]]) {
    const host = element("div", { className: "plot", role: "img", "aria-label": label });
    card.append(host);
    make(host);
  }
}

function fillRange() {
  const wide = view.to - view.from;
  const fine = wide < 20000;
  byId("range").textContent = `${day(view.from)} ${stretchOfTime(view.from, view.to, fine)} · ${duration(wide)}`;
}

function listen() {
  for (const button of document.querySelectorAll("[data-move]")) button.addEventListener("click", () => move(button.dataset.move));
  for (const button of document.querySelectorAll("[data-step]")) button.addEventListener("click", () => step(Number(button.dataset.step)));
  byId("unchoose").addEventListener("click", () => { history.replaceState(null, "", location.pathname + location.search); letGo(); });
  const keys = { ArrowLeft: "earlier", ArrowRight: "later", "+": "in", "=": "in", "-": "out", 0: "all" };
  byId("timeline").addEventListener("keydown", (event) => {
    if (event.target !== byId("timeline") || !keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move(keys[event.key]);
  });
  addEventListener("hashchange", followHash);
  addEventListener("scroll", hideTip, { passive: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    colours.clear();
    charts.forEach((each) => each.redraw(true, true));
  });
  new ResizeObserver(() => {
    for (const each of charts) {
      const width = each.root.parentElement.clientWidth;
      if (width !== each.width) each.setSize({ width, height: each.height });
    }
  }).observe(byId("timeline"));
  new ResizeObserver(measureToolbar).observe(byId("toolbar"));
}

let listing = 0;
listeners.push(fillRange, () => {
  cancelAnimationFrame(listing);
  listing = requestAnimationFrame(listDecisions);
});
fillHead(fillKinds());
fillTable();
fillRequests();
fillResolution();
fillLegend();
addGrid();
report.machines.forEach(addMachine);
listen();
show(report.from, report.to);
followHash();
