// Figures of the grid in words and colours.

import { UNIT } from "./format.js";

const TINTS = 8;

// How long, as coarse as a person needs it.
export function rough(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 90) return `${seconds}${UNIT}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes}${UNIT}min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours}${UNIT}h${minutes % 60 ? `${UNIT}${minutes % 60}${UNIT}min` : ""}`;
  return `${Math.round(hours / 24)}${UNIT}days`;
}

export const degrees = (mc) => `${Math.round(mc / 1000)}${UNIT}°C`;
export const gigabytes = (mb) => (mb / 1024).toFixed(mb < 10240 ? 1 : 0);

// 0: far below the mark, 4: above it. The same steps colour the track.
export const STEPS_MC = [20000, 10000, 5000, 0];
export function warmth(mc, maxMc) {
  const below = maxMc - mc;
  const step = STEPS_MC.findIndex((each) => below > each);
  return step < 0 ? STEPS_MC.length : step;
}

// A client's colour is the same on every page and every day: it depends on its name alone.
export function tint(client) {
  let hash = 0x811c9dc5;
  for (const letter of client) hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193) >>> 0;
  return (((hash >>> 16) ^ hash) >>> 0) % TINTS;
}
