// The box beside the pointer.

import { byId } from "./format.js";

const tip = byId("tip");

export function showTip(event, ...children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  tip.style.left = tip.style.top = "8px"; // where it fits; from there its size is measured
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth - 8 ? event.clientX - width - 14 : event.clientX + 14;
  const top = event.clientY + 14 + height > innerHeight - 8 ? event.clientY - height - 14 : event.clientY + 14;
  tip.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}

export const hideTip = () => { tip.hidden = true; };
