// The last decisions, a line of words each; its time is a link to that moment.

import { byId, clock, count, element } from "./format.js";
import { keep, say } from "./keyed.js";

function makeLine(each) {
  const link = element("a", { href: `#at=${each.position}`, title: `position ${count(each.position)}` }, clock(each.ms));
  const text = element("bdi", {});
  const node = element("li", { "data-tone": each.tone || "ok" }, link, text);
  return { node, update: (now) => say(text, now.text) };
}

export function fillDecisions(view) {
  const newest = [...view.decisions].reverse();
  keep(byId("decisions"), newest, (each) => each.position, makeLine);
  say(byId("decisions-title"), newest.length ? "Last decisions" : "Nothing decided yet");
}
