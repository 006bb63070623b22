// Bars and spans over time: models in memory, attempts and the decisions for them. Drawn by hand on a chart
// without lines, which gives them the common time range and cursor.

const MODEL_ROW = 20, ATTEMPT_ROW = 13, DEFERRAL_ROW = 22, MAX_ROWS = 16, LANE_GAP = 14, LANE_TOP = 18;
const MARKER = 4.5, NEAR = 8, BOOT_ROW = 16;
const BOOTS = { killed: "killed", restart: "goodbye", twins: "two agents" };

// Each attempt in the first row that is free, so that none covers another.
function inRows(attempts) {
  const until = [];
  return attempts.map((each) => {
    let row = until.findIndex((end) => end <= each.begin);
    if (row < 0) row = Math.min(until.length, MAX_ROWS - 1);
    until[row] = Math.max(until[row] || 0, each.end === null ? report.to : each.end);
    return row;
  });
}

const modelTint = (model) => report.models.indexOf(model) % 8;
const isChosen = (request) => chosen !== null && chosen.request !== "" && chosen.request === request;
const isDimmed = (request) => chosen !== null && chosen.request !== "" && chosen.request !== request;

function drawStay(u, each, top, hits) {
  const place = stretch(u, each.begin, each.end);
  if (!place) return;
  const { ctx } = u, dpr = devicePixelRatio, tint = modelTint(each.model);
  const height = (MODEL_ROW - 4) * dpr;
  ctx.fillStyle = colour(`tint-${tint}`);
  ctx.beginPath();
  ctx.roundRect(place.left, top * dpr, place.width, height, Math.min(3 * dpr, place.width / 2));
  ctx.fill();
  hits.push({ left: place.left, right: place.left + place.width, top: top * dpr, bottom: top * dpr + height, tip: () => stayTip(each) });
}

// The model's name in each bar with room for it; without any such bar where the row begins.
function drawName(u, model, stays, top) {
  const { ctx } = u, dpr = devicePixelRatio, middle = (top + (MODEL_ROW - 4) / 2) * dpr;
  ctx.font = font(11 * dpr);
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  const width = ctx.measureText(model).width + 10 * dpr;
  const places = stays.filter((each) => each.model === model).map((each) => stretch(u, each.begin, each.end)).filter(Boolean);
  const wide = places.filter((each) => each.width > width);
  if (places.length && !wide.length) {
    ctx.fillStyle = colour("card");
    ctx.globalAlpha = 0.8;
    ctx.fillRect(u.bbox.left, top * dpr, width, (MODEL_ROW - 4) * dpr);
    ctx.globalAlpha = 1;
    wide.push({ left: u.bbox.left });
  }
  ctx.fillStyle = colour("ink");
  for (const each of wide) ctx.fillText(model, each.left + 5 * dpr, middle);
}

function drawAttempt(u, each, top, hits) {
  const place = stretch(u, each.begin, each.end);
  if (!place) return;
  const { ctx } = u, dpr = devicePixelRatio, height = (ATTEMPT_ROW - 4) * dpr;
  const began = each.started === null ? each.end || report.to : each.started;
  ctx.globalAlpha = isDimmed(each.request) ? 0.25 : 1;
  ctx.fillStyle = colour(`outcome-${each.outcome}`);
  ctx.save();
  ctx.globalAlpha *= 0.4;
  ctx.fillRect(place.left, top * dpr + height / 3, Math.max(place.width - dpr, dpr), height / 3);
  ctx.restore();
  const runs = each.started === null ? null : stretch(u, began, each.end);
  if (runs) ctx.fillRect(runs.left, top * dpr, Math.max(runs.width - dpr, dpr), height);
  if (isChosen(each.request)) {
    ctx.strokeStyle = colour("ink");
    ctx.lineWidth = 1.5 * dpr;
    ctx.strokeRect(place.left - dpr, top * dpr - dpr, place.width + 2 * dpr, height + 2 * dpr);
  }
  ctx.globalAlpha = 1;
  hits.push({ left: place.left, right: place.left + place.width, top: top * dpr - 2 * dpr, bottom: top * dpr + height + 2 * dpr, tip: () => attemptTip(each) });
}

function drawDecision(u, each, middle, tint, markers) {
  if (each.begin < view.from || each.begin > view.to || !each.verdicts.length) return;
  const { ctx } = u, dpr = devicePixelRatio, x = u.valToPos(each.begin, "x", true), y = middle * dpr;
  const size = (markers.crowded ? MARKER / 2 : MARKER) * dpr;
  ctx.globalAlpha = isDimmed(each.request) ? 0.25 : 1;
  ctx.beginPath();
  ctx.moveTo(x, y - size);
  ctx.lineTo(x + size, y);
  ctx.lineTo(x, y + size);
  ctx.lineTo(x - size, y);
  ctx.closePath();
  ctx.fillStyle = colour("card");
  ctx.strokeStyle = colour(tint);
  ctx.lineWidth = 1.5 * dpr;
  ctx.fill();
  ctx.stroke();
  ctx.globalAlpha = 1;
  markers.push({ x, y, decision: each });
}

const bootsOf = (node) => report.anomalies.filter((each) => each.node === node && packed.kinds[each.kind][0] in BOOTS);
const boots = report.machines.flatMap((each) => bootsOf(each.name));

// Where an agent ended, and where a new one of its name began: a line through the lane, and a word.
function drawBoot(u, each, top, hits) {
  const { ctx } = u, dpr = devicePixelRatio, kind = packed.kinds[each.kind][0];
  const tint = colour(kind === "restart" ? "muted" : "danger");
  ctx.strokeStyle = ctx.fillStyle = tint;
  ctx.lineWidth = 1.5 * dpr;
  ctx.font = font(10.5 * dpr);
  ctx.textBaseline = "middle";
  let free = u.bbox.left;
  for (const [ms, label] of [[each.begin, BOOTS[kind]], [each.ongoing ? null : each.end, kind === "twins" ? "one agent" : "new agent"]]) {
    if (ms === null || ms < view.from || ms > view.to) continue;
    const x = u.valToPos(ms, "x", true), width = ctx.measureText(label).width + 8 * dpr;
    ctx.setLineDash(label !== BOOTS[kind] ? [3 * dpr, 3 * dpr] : []);
    ctx.beginPath();
    ctx.moveTo(x, top * dpr);
    ctx.lineTo(x, u.bbox.top + u.bbox.height);
    ctx.stroke();
    const isRight = x + width <= u.bbox.left + u.bbox.width;
    if (x >= free || !isRight) {
      ctx.textAlign = isRight ? "left" : "right";
      ctx.fillText(label, x + (isRight ? 4 : -4) * dpr, (top + BOOT_ROW / 2 - 2) * dpr);
      free = x + width;
    }
    hits.push({ left: x - 4 * dpr, right: x + 4 * dpr, top: top * dpr, bottom: u.bbox.top + u.bbox.height, tip: () => bootTip(each) });
  }
  ctx.setLineDash([]);
}

function isCrowded(u, decisions) {
  const inView = decisions.filter((each) => each.begin >= view.from && each.begin <= view.to);
  return inView.length * 2 * MARKER > u.over.clientWidth;
}

function title(u, text, top) {
  const { ctx } = u, dpr = devicePixelRatio;
  ctx.font = font(11 * dpr);
  ctx.fillStyle = colour("muted");
  ctx.textBaseline = "alphabetic";
  ctx.textAlign = "left";
  ctx.fillText(text, u.bbox.left + 2 * dpr, top * dpr - 5 * dpr);
}

// What lies under the pointer: the nearest decision, else the bar.
function under({ hits, markers }, event, box) {
  const dpr = devicePixelRatio;
  const x = (event.clientX - box.left) * dpr, y = (event.clientY - box.top) * dpr;
  let best = null, distance = NEAR * dpr;
  for (const each of markers) {
    const away = Math.hypot(each.x - x, each.y - y);
    if (away < distance) [best, distance] = [each, away];
  }
  if (best) return decisionTip(best.decision);
  const hit = hits.find((each) => x >= each.left - dpr && x <= each.right + dpr && y >= each.top && y <= each.bottom);
  return hit ? hit.tip() : null;
}

function addLanes(host, height, node, paint) {
  const drawn = { hits: [], markers: [] };
  const draw = (u) => {
    drawn.hits = [];
    drawn.markers = [];
    u.ctx.save();
    u.ctx.beginPath();
    u.ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    u.ctx.clip();
    paint(u, drawn);
    u.ctx.restore();
  };
  const u = addChart(host, height + 4 + TIME_AXIS, {
    series: [{}, { show: false }],
    legend: { show: false },
    axes: axes(true, { values: (self, splits) => splits.map(() => ""), grid: { show: false } }),
    scales: { y: { range: [0, 1] } },
    padding: [4, RIGHT, 0, 0],
    cursor: { points: { show: false } },
    hooks: { drawClear: [bands(node)], draw: [draw] },
  }, [[report.from, report.to], [null, null]]);
  const canvas = u.root.querySelector("canvas");
  u.over.addEventListener("mousemove", (event) => {
    const found = under(drawn, event, canvas.getBoundingClientRect());
    u.over.classList.toggle("pointed", found !== null);
    if (found) showTip(event, ...found);
    else hideTip();
  });
  u.over.addEventListener("mouseleave", hideTip);
  return u;
}

function lanesChart(host, machine) {
  const stays = report.stays.filter((each) => each.node === machine.name);
  const attempts = report.attempts.filter((each) => each.node === machine.name);
  const models = [...new Set(stays.map((each) => each.model))];
  const rows = inRows(attempts);
  const marks = bootsOf(machine.name);
  const top = 4 + (marks.length ? BOOT_ROW : 0);
  const requestsTop = top + (models.length ? LANE_TOP + models.length * MODEL_ROW + LANE_GAP : 0) + LANE_TOP;
  const height = requestsTop + (Math.max(-1, ...rows) + 1) * ATTEMPT_ROW + 4;
  return addLanes(host, height, machine.name, (u, { hits, markers }) => {
    if (models.length) title(u, "models in memory", top + LANE_TOP);
    const rowOfModel = (model) => top + LANE_TOP + models.indexOf(model) * MODEL_ROW;
    for (const each of stays) drawStay(u, each, rowOfModel(each.model), hits);
    for (const model of models) drawName(u, model, stays, rowOfModel(model));
    title(u, attempts.length ? "requests, by attempt" : "no request came here", requestsTop);
    attempts.forEach((each, i) => drawAttempt(u, each, requestsTop + rows[i] * ATTEMPT_ROW, hits));
    markers.crowded = isCrowded(u, attempts);
    attempts.forEach((each, i) => {
      const middle = requestsTop + rows[i] * ATTEMPT_ROW + (ATTEMPT_ROW - 4) / 2;
      drawDecision(u, each, middle, `outcome-${each.outcome}`, markers);
    });
    for (const each of marks) drawBoot(u, each, 4, hits);
  });
}

function deferralChart(host) {
  const top = 4 + LANE_TOP;
  return addLanes(host, top + DEFERRAL_ROW, "", (u, { markers }) => {
    title(u, report.deferrals.length ? "decisions to wait" : "no decision to wait", top);
    markers.crowded = isCrowded(u, report.deferrals);
    for (const each of report.deferrals) {
      drawDecision(u, each, top + DEFERRAL_ROW / 2 - 2, each.waitsFor ? "waiting" : "danger", markers);
    }
  });
}
