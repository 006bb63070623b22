// What all charts have in common: one time range, one cursor, bands and marks behind the lines.

const view = { from: report.from, to: report.to };
const charts = [];
const LEAST_MS = 2000;
const GUTTER = 46, RIGHT = 10;
let chosen = null;
let moving = false;

const listeners = [];

// Show a range in all charts, within the log.
function show(from, to) {
  const all = report.to - report.from;
  const length = Math.round(Math.min(Math.max(to - from, LEAST_MS), all));
  view.from = Math.round(Math.min(Math.max((from + to - length) / 2, report.from), report.to - length));
  view.to = view.from + length;
  moving = true;
  for (const each of charts) each.setScale("x", { min: view.from, max: view.to });
  moving = false;
  byId("timeline").dataset.from = view.from;
  byId("timeline").dataset.to = view.to;
  for (const listen of listeners) listen();
}

function move(how) {
  const length = view.to - view.from;
  const moves = {
    earlier: () => show(view.from - length / 2, view.to - length / 2),
    later: () => show(view.from + length / 2, view.to + length / 2),
    in: () => show(view.from + length / 4, view.to - length / 4),
    out: () => show(view.from - length / 2, view.to + length / 2),
    all: () => show(report.from, report.to),
  };
  moves[how]();
}

function timeLabels(u, splits, axis, space, step) {
  return splits.map((ms, i) => {
    const label = clock(ms, step < 1000).slice(0, step < 60000 ? undefined : 5);
    const x = ((ms - view.from) / (view.to - view.from)) * (u.width - GUTTER - RIGHT);
    if (x + label.length * 3.2 > u.width - GUTTER) return ""; // it would be cut off
    return manyDays && (i === 0 || day(ms) !== day(splits[i - 1])) ? `${label}\n${day(ms).slice(5)}` : label;
  });
}

const TIME_AXIS = manyDays ? 36 : 22;

function axes(labels, yAxis) {
  const lines = { stroke: () => colour("line"), width: 1 };
  const common = { stroke: () => colour("muted"), font: font(11), grid: lines, ticks: { show: false } };
  const time = labels
    ? { ...common, size: TIME_AXIS, gap: 4, space: 64, values: timeLabels }
    : { ...common, size: 6, space: 64, values: (u, splits) => splits.map(() => "") };
  return [time, { ...common, size: GUTTER, gap: 6, space: 26, ...yAxis }];
}

// A horizontal stretch of a chart in canvas pixels; null where it is not in view.
function stretch(u, begin, end) {
  const from = Math.max(begin, view.from), to = Math.min(end === null ? report.to : end, view.to);
  if (to < from) return null;
  const left = u.valToPos(from, "x", true), right = u.valToPos(to, "x", true);
  return { left, width: Math.max(right - left, devicePixelRatio) };
}

function shade(u, spans, fill) {
  u.ctx.fillStyle = fill;
  for (const each of spans) {
    const place = stretch(u, each.begin, each.end);
    if (place) u.ctx.fillRect(place.left, u.bbox.top, place.width, u.bbox.height);
  }
}

// Behind the lines: where the node was silent or backed off, and the anomaly that was chosen.
function bands(node) {
  const silences = report.silences.filter((each) => each.node === node || each.node === "");
  const backoffs = report.backoffs.filter((each) => each.node === node);
  return (u) => {
    u.ctx.save();
    shade(u, silences, colour("silent-band"));
    shade(u, backoffs, colour("backoff-band"));
    if (chosen && (!chosen.node || !node || chosen.node === node)) shade(u, [chosen], colour("chosen-band"));
    u.ctx.restore();
  };
}

// The mark of the policy that was in force, and its value once, where the range ends.
function mark(scale, value, label, tint) {
  return (u) => {
    const { ctx } = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour(tint);
    ctx.lineWidth = devicePixelRatio;
    ctx.font = font(10.5 * devicePixelRatio);
    ctx.textAlign = "right";
    ctx.textBaseline = "alphabetic";
    report.rules.forEach((rules, i) => {
      const next = report.rules[i + 1];
      const place = stretch(u, rules.begin, next ? next.begin : null);
      if (!place) return;
      const y = u.valToPos(value(rules), scale, true);
      ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(place.left, y);
      ctx.lineTo(place.left + place.width, y);
      ctx.stroke();
      if (place.width > 60 * devicePixelRatio) {
        ctx.fillText(label(rules), place.left + place.width - 4 * devicePixelRatio, y - 4 * devicePixelRatio);
      }
    });
    ctx.restore();
  };
}

function addChart(host, height, options, data) {
  const u = new uPlot(
    {
      width: host.clientWidth,
      height,
      ms: 1,
      padding: [8, RIGHT, 0, 0],
      ...options,
      scales: { x: { time: true, auto: false, min: view.from, max: view.to }, ...options.scales },
      cursor: {
        y: false,
        drag: { x: true, y: false, dist: 6 },
        sync: { key: "time", scales: ["x", null] },
        points: { size: 6 },
        bind: { dblclick: () => () => move("all") },
        ...options.cursor,
      },
      hooks: {
        ...options.hooks,
        setScale: [(self, key) => {
          if (key === "x" && !moving) {
            const { min, max } = self.scales.x;
            queueMicrotask(() => show(min, max));
          }
        }],
      },
    },
    data,
    host,
  );
  charts.push(u);
  return u;
}

const between = (unit) => (u, high, n, i) => {
  if (i === null || high === null || high === undefined) return "–";
  const low = u.data[n + 1][i];
  return high - low < 0.05 ? `${high.toFixed(1)} ${unit}` : `${low.toFixed(1)} – ${high.toFixed(1)} ${unit}`;
};

// The highest values as a line; the lowest are there for the boxes behind it and for the legend.
function pair(label, tint, unit) {
  return [
    { label, stroke: () => colour(tint), width: 1.25, value: between(unit), points: { size: 3, fill: () => colour(tint) } },
    { label: `lowest ${label}`, show: false, class: "lowest" },
  ];
}

// Behind a line a box for each step of time, from the lowest to the highest value in it; boxes that share a
// pixel are joined.
function boxes(n, widthMs, tint) {
  return (u) => {
    const [times, highs, lows] = [u.data[0], u.data[n], u.data[n + 1]];
    const { ctx, bbox } = u, toX = bbox.width / (view.to - view.from);
    const width = Math.max(widthMs * toX, 1);
    let last = null;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = colour(tint);
    const fill = (box) => {
      const top = u.valToPos(box.high, "y", true);
      ctx.fillRect(box.left, top, width, u.valToPos(box.low, "y", true) - top);
    };
    for (let i = u.valToIdx(view.from - widthMs); i < times.length && times[i] <= view.to + widthMs; i++) {
      if (highs[i] === null || highs[i] === lows[i]) continue;
      const left = Math.floor(bbox.left + (times[i] - widthMs / 2 - view.from) * toX);
      if (last !== null && last.left === left) {
        last.high = Math.max(last.high, highs[i]);
        last.low = Math.min(last.low, lows[i]);
        continue;
      }
      if (last !== null) fill(last);
      last = { left, high: highs[i], low: lows[i] };
    }
    if (last !== null) fill(last);
    ctx.restore();
  };
}

function temperatureChart(host, machine, [times, high, low]) {
  const marks = report.rules.map((rules) => rules.tempMax);
  return addChart(host, 150, {
    series: [{ label: "time", value: (u, ms) => (ms === null ? "–" : moment(ms, false)) }, ...pair("temperature", "temperature", "°C")],
    axes: axes(false, { values: (u, splits) => splits.map((each) => `${each} °C`) }),
    scales: {
      y: { range: (u, min, max) => [Math.min(30, Math.floor(min / 10) * 10), Math.max(...marks, max) + 8] },
    },
    hooks: {
      drawClear: [bands(machine.name)],
      drawAxes: [boxes(1, machine.health.width, "temperature-band")],
      draw: [mark("y", (rules) => rules.tempMax, (rules) => `${rules.tempMax} °C`, "danger")],
    },
  }, [times, high, low]);
}

function loadChart(host, machine, [times, , , ramHigh, ramLow, cpuHigh, cpuLow]) {
  return addChart(host, 150, {
    series: [
      { label: "time", value: (u, ms) => (ms === null ? "–" : moment(ms, false)) },
      ...pair("CPU", "cpu", "%"), ...pair("memory", "memory", "%"),
    ],
    axes: axes(false, { values: (u, splits) => splits.map((each) => `${each} %`), incrs: [25, 50] }),
    scales: { y: { range: [0, 104] } },
    hooks: {
      drawClear: [bands(machine.name)],
      drawAxes: [boxes(1, machine.health.width, "cpu-band"), boxes(3, machine.health.width, "memory-band")],
      draw: [mark("y", (rules) => rules.ramMax, (rules) => `${rules.ramMax} % memory`, "danger")],
    },
  }, [times, cpuHigh, cpuLow, ramHigh, ramLow]);
}

function queueChart(host) {
  const [times, waiting, , running] = columns(packed.queue, Infinity, [1, 1], 0);
  const stepped = uPlot.paths.stepped({ align: 1 });
  const whole = (u, value) => (value === null || value === undefined ? "–" : count(value));
  return addChart(host, 140, {
    series: [
      { label: "time", value: (u, ms) => (ms === null ? "–" : moment(ms, false)) },
      { label: "waiting", stroke: () => colour("waiting"), fill: () => colour("waiting-band"), width: 1.25, paths: stepped, value: whole, points: { show: false } },
      { label: "on a node", stroke: () => colour("running"), width: 1.25, paths: stepped, value: whole, points: { show: false } },
    ],
    axes: axes(false, { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }),
    scales: { y: { range: (u, min, max) => [0, Math.max(max, 3) * 1.1] } },
    hooks: { drawClear: [bands("")] },
  }, [times, waiting, running]);
}
