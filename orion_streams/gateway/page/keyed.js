// Rows that stay in place while what they say changes, so that neither focus nor pointer loses them.

const kept = new WeakMap();

// Show a row for each item under its key. `make` returns its element and what brings it up to date.
export function keep(host, items, key, make) {
  if (!kept.has(host)) kept.set(host, new Map());
  const known = kept.get(host);
  const wanted = new Map(items.map((item) => [key(item), item]));
  for (const [each, row] of known) {
    if (wanted.has(each)) continue;
    row.node.remove();
    known.delete(each);
  }
  let place = host.firstElementChild;
  for (const [each, item] of wanted) {
    if (!known.has(each)) known.set(each, make(item));
    const row = known.get(each);
    row.update(item);
    if (row.node === place) place = place.nextElementSibling;
    else host.insertBefore(row.node, place);
  }
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A name that may be cut off, whole in its title.
export function sayName(node, text) {
  say(node, text);
  if (node.title !== text) node.title = text;
}

export function put(node, attribute, value) {
  if (node.getAttribute(attribute) !== value) node.setAttribute(attribute, value);
}

// A row of which one element has the focus: arrow keys move it.
export function roving(host, selector) {
  host.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const all = [...host.querySelectorAll(selector)];
    const at = all.indexOf(event.target);
    if (!by || at < 0) return;
    event.preventDefault();
    all[Math.min(Math.max(at + by, 0), all.length - 1)].focus();
  });
  host.addEventListener("focusin", (event) => {
    for (const each of host.querySelectorAll(selector)) each.tabIndex = each === event.target ? 0 : -1;
  });
}
