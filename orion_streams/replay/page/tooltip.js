// What the box beside the pointer says of decisions, attempts and models.

const line = (text, className) => element("p", { className: className || "" }, text);

// One node a row: the filter that held it back, or its cost as a sum of terms.
function verdictTable(verdicts, chosen) {
  const found = verdicts.map(verdict);
  const rank = (each) => (each.node === chosen ? -1 : each.filter ? Infinity : each.costMs);
  found.sort((a, b) => rank(a) - rank(b) || (a.node < b.node ? -1 : 1));
  const rows = found.map((each) => {
    const cells = [element("td", {}, each.node === chosen ? "→" : ""), element("td", {}, name(each.node))];
    if (each.filter) {
      cells.push(element("td", { className: "held", colSpan: 2 }, each.filter));
    } else {
      const evicts = each.evicts.length ? `; unloads ${each.evicts.join(", ")}` : "";
      cells.push(element("td", { className: "cost" }, duration(each.costMs)));
      cells.push(element("td", { className: "terms" }, sum(each.terms) + evicts));
    }
    return element("tr", { className: each.node === chosen ? "chosen-node" : "" }, ...cells);
  });
  return element("table", { className: "verdicts" }, element("tbody", {}, ...rows));
}

function sum(terms) {
  const parts = terms.map((each, i) => {
    const sign = each.minus ? "− " : i ? "+ " : "";
    return `${sign}${each.name}${UNIT}${duration(each.ms)}`;
  });
  return parts.join(" ") || "nothing to do";
}

const isRouted = (decision) => decision.number !== undefined;

function decided(decision) {
  if (isRouted(decision)) return `attempt ${decision.number} goes to ${decision.node}`;
  return decision.waitsFor ? `waits for ${decision.waitsFor}, which cannot begin yet` : "waits: no node can take it";
}

function decisionTip(decision) {
  return [
    element("p", { className: "tip-title" }, name(decision.request), ` ${decided(decision)}`),
    line(`${moment(decision.begin, true)} · position ${count(decision.first)}`, "muted"),
    verdictTable(decision.verdicts, decision.node || decision.waitsFor),
  ];
}

const ENDS = {
  done: "answered", failed: "failed", abandoned: "given up", error: "its request ended as an error",
  expired: "its request expired", cancelled: "its request was cancelled", open: "still open at the log's end",
};

function attemptTip(each) {
  const lasted = duration((each.end || report.to) - each.begin);
  const end = `${ENDS[each.outcome]}${each.code ? ` (${each.code})` : ""} after ${lasted}`;
  const parts = [
    element("p", { className: "tip-title" }, name(each.request), ` attempt ${each.number} on ${each.node}`),
    line(end, `outcome ${each.outcome}`),
    line(`sent ${moment(each.begin, true)}, position ${count(each.first)}`, "muted"),
  ];
  if (each.started) parts.push(line(`begun by the node ${duration(each.started - each.begin)} later`, "muted"));
  if (each.end) parts.push(line(`ended ${moment(each.end, true)}, position ${count(each.last)}`, "muted"));
  const loaded = each.cold ? "model not in memory when it was sent" : "model in memory";
  const tokens = each.outcome === "done" ? ` · ${plural(each.tokens, "token")} · ${loaded}` : "";
  parts.push(element("p", { className: "muted" }, name(each.model), tokens));
  return parts;
}

function stayTip(each) {
  const lasted = duration((each.end || report.to) - each.begin);
  const until = each.end ? moment(each.end) : "the log's end";
  return [
    element("p", { className: "tip-title" }, name(each.model), " in memory"),
    line(`${moment(each.begin)} to ${until}, ${lasted}`, "muted"),
    line(`positions ${count(each.first)} to ${count(each.last === null ? packed.last : each.last)}`, "muted"),
  ];
}

function bootTip(each) {
  return [
    element("p", { className: "tip-title" }, element("bdi", {}, each.sentence)),
    line(`${when(each)} · positions ${positions(each)}`, "muted"),
  ];
}
