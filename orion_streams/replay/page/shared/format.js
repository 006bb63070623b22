// Units, times and elements. Whatever comes from the log is shown as text, never as markup.

export const two = (n) => String(n).padStart(2, "0");
export const count = (n) => n.toLocaleString("en");
export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many || one + "s"}`;

export function day(ms) {
  const d = new Date(ms);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
}

export function clock(ms, fine) {
  const d = new Date(ms);
  const seconds = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  return fine ? `${seconds}.${String(d.getMilliseconds()).padStart(3, "0")}` : seconds;
}

export function zone(ms) {
  const minutes = -new Date(ms).getTimezoneOffset();
  const size = Math.abs(minutes);
  const offset = `UTC${minutes < 0 ? "−" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
  const place = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return minutes === 0 && (!place || place === "UTC") ? "UTC" : `${place || "local time"}, ${offset}`;
}

export const UNIT = "\u00a0"; // keeps a figure and its unit on one line

export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)}${UNIT}ms`;
  if (ms < 10000) return `${(ms / 1000).toFixed(1)}${UNIT}s`;
  if (ms < 600000) return `${Math.floor(ms / 1000)}${UNIT}s`;
  const minutes = Math.floor(ms / 60000);
  if (minutes < 120) return `${minutes}${UNIT}min`;
  return `${Math.floor(minutes / 60)}${UNIT}h${minutes % 60 ? `${UNIT}${minutes % 60}${UNIT}min` : ""}`;
}

export function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name.startsWith("data-") || name.startsWith("aria-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);
// A name from outside stands for itself: no direction of writing in it reaches its neighbours.
export const name = (text, className) => element("bdi", { className: className || "name" }, text);
