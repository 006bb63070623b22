// The view that is kept: each new one replaces it, but for what comes in parts.

const TRACK_MS = 600000, MOST_DECISIONS = 30, MOST_TICKS = 500;

// The same rows once, in their order, the last `most`.
function joined(old, fresh, key, order, most) {
  const rows = new Map([...old, ...fresh].map((each) => [key(each), each]));
  return [...rows.values()].sort((a, b) => order(a) - order(b)).slice(-most);
}

const tickKey = (each) => `${each.position} ${each.kind} ${each.node}`;
export const joinTicks = (old, fresh) => joined(old, fresh, tickKey, (each) => each.position, MOST_TICKS);

export function merged(old, view) {
  if (!old || view.position < old.position) return view; // another log, or the first
  const track = {};
  for (const { name } of view.nodes) {
    const points = joined(old.track[name] || [], view.track[name] || [], (each) => each[0], (each) => each[0], Infinity);
    track[name] = points.filter((each) => each[0] > view.at_ms - TRACK_MS);
  }
  return {
    ...view,
    track,
    decisions: joined(old.decisions, view.decisions, (each) => each.position, (each) => each.position, MOST_DECISIONS),
    ticks: joinTicks(old.ticks, view.ticks),
  };
}
