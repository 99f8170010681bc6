// States and payloads as trees of rows.

const PAGE = 100; // children of one object or list that are drawn at a time
const CUT = 240, MORE = 10_000; // characters of a string that are shown at first, and with each "show more"
const PREVIEW = 72;
const STATE = "state "; // the prefix of the tree that is the state
const SIGNS = { added: "+", changed: "±", removed: "−" };

/** Draws trees; remembers what was unfolded, by path, from step to step. `redraw` is called when that changes.
 *  Values of trees whose prefix is `asked` are buttons, and `pathOf` tells the path of one. */
function trees(redraw, asked) {
  const limits = new Map(); // path → children shown, 0: folded by hand
  const lengths = new Map(); // path → characters shown
  const paths = new WeakMap(); // row → path, where values are asked for
  const set = (map, key, value) => () => { map.set(key, value); redraw(); };

  const asking = (prefix, key) => (prefix === asked ? { role: "button", tabindex: 0, "data-key": `${key} value` } : null); // no <button>: those do not wrap as text does

  function leaf(raw, key, prefix) {
    const longest = lengths.get(key) ?? CUT;
    const text = leafText(raw, longest);
    const kind = raw[0] === '"' ? "es-text" : /[-0-9]/.test(raw[0]) ? "es-number" : "es-word";
    const shown = h("bdi", { class: `es-leaf ${kind}`, ...asking(prefix, key) }, text);
    const rest = raw.length - 2 - longest;
    if (rest <= 0) return [shown];
    const all = `show ${rest > MORE ? `${grouped(MORE)} more` : "all"} of ${grouped(raw.length)} characters`;
    return [shown, h("button", { type: "button", class: "es-more", "data-key": `${key} length`, onclick: set(lengths, key, longest + MORE) }, all)];
  }

  const summary = (tree) => (tree instanceof Map ? `{${count(tree.size, "field")}}` : `[${count(tree.length, "item")}]`);
  const short = (node, name) => h("bdi", { class: name }, preview(node, PREVIEW));

  /** The rows of one tree's children: with `marks` what they mark, and of the rest `limit`. */
  function children(tree, marks, path, prefix, limit, depth, roomy) {
    const key = prefix + JSON.stringify(path), rows = [], shown = new Set();
    const add = (part, value) => { shown.add(part); rows.push(node(part, value, marks?.kids?.get(part), [...path, part], prefix, depth, roomy)); };
    if (limit) for (const [part, value] of tree.entries()) { if (shown.size === limit) break; add(part, value); }
    let room = limits.get(`${key} changed`) ?? PAGE, waiting = 0, removed = 0;
    for (const [part, mark] of marks?.kids ?? []) {
      if (shown.has(part)) continue;
      if (mark.kind === "removed") removed++;
      if (room-- > 0) add(part, childOf(tree, part)); else waiting++;
    }
    if (waiting) rows.push(more(`${key} changed`, `… ${count(waiting, "more changed path")}; show ${Math.min(waiting, PAGE)}`, PAGE + (limits.get(`${key} changed`) ?? PAGE)));
    const rest = sizeOf(tree) + removed - shown.size - waiting;
    const word = `${marks ? "unchanged" : "more"} ${tree instanceof Map ? "field" : "item"}`;
    if (rest) rows.push(more(key, `… ${count(rest, word)}${limit ? `; show ${Math.min(rest, PAGE)}` : ""}`, limit + PAGE));
    return h("ul", { class: "es-tree" }, rows);
  }

  const more = (key, text, limit) =>
    h("li", { class: "es-rest" }, h("button", { type: "button", class: "es-more", "data-key": `${key} more`, onclick: set(limits, key, limit) }, text));

  function node(part, value, mark, path, prefix, depth, roomy) {
    const key = prefix + JSON.stringify(path), kind = mark?.kind ?? "";
    const name = typeof part === "number" ? h("span", { class: "es-key es-index" }, `[${part}]`) : bdi(part.length > CUT ? `${part.slice(0, CUT)}…` : part, "es-key");
    const sign = prefix === asked ? h("span", { class: "es-sign", "aria-hidden": "true" }, SIGNS[kind] ?? "") : "";
    const word = kind ? h("span", { class: "es-kind" }, kind) : "";
    const row = (...parts) => {
      const made = h("li", { class: kind ? `es-node es-${kind}` : "es-node", "data-path": formatPath(path) }, parts);
      if (prefix === asked) paths.set(made, path);
      return made;
    };
    if (kind === "removed") {
      return row(h("div", { class: "es-row" }, sign, name, ": ", h("del", { class: "es-old" }, short(mark.before, "es-leaf")), " ", word));
    }
    const old = kind === "changed" ? [h("del", { class: "es-old" }, short(mark.before, "es-leaf")), h("span", { class: "es-arrow" }, " → ")] : [];
    if (!isTree(value)) {
      const now = leaf(value, key, prefix);
      return row(h("div", { class: "es-row" }, sign, name, ": ", old, kind ? h("ins", { class: "es-new" }, now) : now, " ", word));
    }
    const onTheWay = Boolean(mark?.kids);
    const chosen = limits.get(key);
    const limit = chosen ?? (onTheWay ? (roomy ? PAGE : 0) : roomy && depth < 4 && sizeOf(value) <= 8 ? 8 : kind && sizeOf(value) <= 20 ? 20 : 0);
    const open = (onTheWay && chosen !== -1) || (limit > 0 && sizeOf(value) > 0);
    const toggle = set(limits, key, open ? -1 : onTheWay ? 0 : PAGE);
    const fold = sizeOf(value)
      ? h("button", { type: "button", class: "es-fold", "aria-expanded": String(open), "data-key": key, onclick: toggle }, name)
      : name;
    const told = h("span", { class: "es-summary", ...asking(prefix, key) }, summary(value), open ? "" : " ", open || !sizeOf(value) ? "" : short(value, "es-preview"));
    return row(
      h("div", { class: "es-row" }, sign, fold, ": ", old, told, " ", word),
      open ? children(value, onTheWay ? mark : null, path, prefix, Math.max(limit, 0), depth + 1, (roomy || !onTheWay) && sizeOf(value) <= 20) : "",
    );
  }

  /** A whole tree. With `marks` only what they mark, unless `all`. */
  function draw(value, marks, prefix, all) {
    if (marks?.kind) {
      const old = h("del", { class: "es-old" }, short(marks.before, "es-leaf"));
      return h("ul", { class: "es-tree" }, h("li", { class: "es-node es-changed", "data-path": "" }, h("div", { class: "es-row" }, old, " → ", h("ins", { class: "es-new" }, isTree(value) ? short(value, "es-leaf") : leaf(value, prefix, prefix)))),
        isTree(value) ? children(value, null, [], prefix, limits.get(`${prefix}[]`) ?? PAGE, 1, sizeOf(value) <= 20) : "");
    }
    if (!isTree(value)) return h("div", { class: "es-row" }, leaf(value, prefix, prefix));
    if (!sizeOf(value) && !marks?.kids.size) return h("p", { class: "es-none" }, value instanceof Map ? "{} (empty)" : "[] (empty)");
    return children(value, marks, [], prefix, limits.get(`${prefix}[]`) ?? (all ? PAGE : 0), 1, all && sizeOf(value) <= 20);
  }

  const pathOf = (value) => paths.get(value.closest(".es-node")) ?? [];
  const unfolded = (prefix) => (limits.get(`${prefix}[]`) ?? 0) > 0;
  const fold = (prefix) => { for (const key of [...limits.keys()]) if (key.startsWith(prefix)) limits.delete(key); };
  return { draw, pathOf, unfolded, fold };
}
