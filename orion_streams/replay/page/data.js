// The report's data: unpacked from differences and numbers into times (ms of the epoch) and words.

const packed = JSON.parse(byId("data").textContent);
const word = (n) => packed.words[n];
const at = (ms) => (ms === null ? null : packed.from + ms);

function sums(differences) {
  let sum = 0;
  return differences.map((each) => (each === null ? null : (sum += each)));
}

const span = (row, start) => ({
  begin: at(row[start]), first: row[start + 1], end: at(row[start + 2]), last: row[start + 3],
});

// Columns for a chart: times, then for each channel the highest and the lowest. Where there was nothing for
// longer than `gapMs`, a line breaks. `within`: where in its step of time a value stands, of 1.
function columns(series, gapMs, scale, within) {
  const keys = sums(series.keys);
  const values = series.values.map(([lows, ups]) => {
    const low = sums(lows);
    return { low, high: low.map((each, i) => (each === null ? null : each + ups[i])) };
  });
  const found = [[], ...values.flatMap(() => [[], []])];
  keys.forEach((key, i) => {
    if (i && key - keys[i - 1] > gapMs) {
      found[0].push(at(keys[i - 1]) + series.width);
      for (let n = 1; n < found.length; n++) found[n].push(null);
    }
    found[0].push(at(key) + series.width * within);
    values.forEach(({ low, high }, n) => {
      found[2 * n + 1].push(high[i] === null ? null : high[i] / scale[n]);
      found[2 * n + 2].push(low[i] === null ? null : low[i] / scale[n]);
    });
  });
  return found;
}

function verdict(row) {
  const [node, figure, ...rest] = row;
  if (figure < 0) return { node: word(node), filter: word(-1 - figure) };
  const evicts = Array.isArray(rest[rest.length - 1]) ? rest.pop().map(word) : [];
  const terms = [];
  for (let i = 0; i < rest.length; i += 2) {
    terms.push({ name: packed.terms[rest[i]], ms: rest[i + 1], minus: rest[i] === packed.subtracted });
  }
  return { node: word(node), costMs: figure, terms, evicts };
}

function attempt(row) {
  const [node, , , , , started, , request, number, model, outcome, code, tokens, cold, verdicts] = row;
  return {
    ...span(row, 1), node: word(node), started: at(started), request: word(request), number,
    model: word(model), outcome: word(outcome), code: word(code), tokens, cold, verdicts,
  };
}

function deferral([ms, position, request, node, verdicts]) {
  return { begin: at(ms), first: position, request: word(request), waitsFor: word(node), verdicts };
}

function anomaly(row, number) {
  const [kind, , , , , ongoing, node, request, sentence] = row;
  return { ...span(row, 1), number, kind, ongoing, node: word(node), request: word(request), sentence };
}

const ofNode = (row) => ({ node: word(row[0]), ...span(row, 1) });
const staleMs = Math.max(0, ...packed.rules.map((row) => row[6]));
const report = {
  from: packed.from,
  to: Math.max(packed.to, packed.from + 1000),
  rules: packed.rules.map((row) => ({
    begin: at(row[0]), first: row[1], revision: row[2], id: word(row[3]), tempMax: row[4] / 1000, ramMax: row[5] / 10,
  })),
  machines: packed.machines.map((each) => ({ ...each, name: word(each.name) })),
  attempts: packed.attempts.map(attempt),
  deferrals: packed.deferrals.map(deferral),
  anomalies: packed.anomalies.map(anomaly),
  backoffs: packed.backoffs.map(ofNode),
  silences: packed.silences.map(ofNode),
  trips: packed.trips.map(ofNode),
  stays: packed.stays.map((row) => ({ ...ofNode(row), model: word(row[5]) })),
};
report.models = [...new Set(report.stays.map((each) => each.model))].sort();
const gapMs = (series) => Math.max(staleMs, 2 * series.width);
const manyDays = day(report.from) !== day(report.to);
const isShort = report.to - report.from < 600000;
const date = (ms) => (manyDays ? `${day(ms).slice(5)} ` : "");
const moment = (ms, fine = isShort) => date(ms) + clock(ms, fine);

// The day once, unless another one begins in between.
function stretchOfTime(from, to, fine) {
  return `${clock(from, fine)} – ${day(from) === day(to) ? "" : date(to)}${clock(to, fine)}`;
}
