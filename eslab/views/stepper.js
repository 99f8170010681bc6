// eslab's stepper: steps through the states of one history, wholly here, on a text that is specified in eslab/stepping.py.
//
// Three parts: the tree (pure functions), the reader of the text, the view. Values come from strangers: they reach the page as text nodes alone.
//
// What tests may rely on. Roles and names: group "Stepper: <name>"; buttons "First", "Back", "Forward", "Last", "Show unchanged"; slider "Position";
// listbox "Events" with options; groups "Event and state", "Event", "State"; status (what was stepped to, in words).
// Classes: .eslab-stepper (data-position), .es-where, .es-banner, .es-mark (data-mark), .es-problem, .es-chip (data-mark), .es-item (data-position), .es-facts,
// .es-event, .es-state, .es-node (data-path, as format_path writes it), .es-added, .es-changed, .es-removed, .es-old, .es-new, .es-fold, .es-more, .es-help.

// --- the tree -------------------------------------------------------------------------------------------------------------------------
// An object is a Map (its order is kept, no key is special), a list an Array, anything else the JSON text itself: no number is ever converted.

const DEEPEST = 500; // levels; what lies deeper stays text, so that no payload exhausts the stack

/** The tree of a JSON text. */
export function parse(text) {
  let at = 0;
  const blank = () => { while (text.charCodeAt(at) <= 32) at++; };
  const quoted = () => {
    const start = at;
    do at = text.indexOf('"', at + 1); while (at >= 0 && isEscaped(text, at));
    if (at < 0) throw new SyntaxError("a string does not end");
    return text.slice(start, ++at);
  };
  const word = () => {
    const start = at;
    for (let code = text.charCodeAt(at); code > 32 && code !== 44 && code !== 93 && code !== 125; code = text.charCodeAt(++at));
    return text.slice(start, at);
  };
  const skipped = () => {
    const start = at;
    let open = 0;
    do {
      const char = text[at];
      if (char === '"') { quoted(); continue; }
      if (char === "{" || char === "[") open++;
      else if (char === "}" || char === "]") open--;
      at++;
    } while (open && at < text.length);
    return text.slice(start, at);
  };
  const value = (depth) => {
    blank();
    const char = text[at];
    if (char === '"') return quoted();
    if (char !== "{" && char !== "[") return word();
    if (depth === DEEPEST) return skipped();
    const map = char === "{", end = map ? "}" : "]", node = map ? new Map() : [];
    at++;
    for (blank(); text[at] !== end; blank()) {
      if (at >= text.length) throw new SyntaxError(`a ${end} is missing`);
      if (text[at] === ",") { at++; blank(); }
      if (!map) { node.push(value(depth + 1)); continue; }
      const key = unquote(quoted());
      blank();
      at++; // the colon
      node.set(key, value(depth + 1));
    }
    at++;
    return node;
  };
  return value(0);
}

function isEscaped(text, at) {
  let slashes = 0;
  while (text[at - 1 - slashes] === "\\") slashes++;
  return slashes % 2 === 1;
}

function unquote(raw) {
  return raw.includes("\\") ? JSON.parse(raw) : raw.slice(1, -1);
}

export const isTree = (node) => typeof node === "object";
export const sizeOf = (node) => (node instanceof Map ? node.size : node.length);
const childOf = (node, part) => (node instanceof Map ? node.get(part) : isTree(node) ? node[part] : undefined);
const partsOf = (path) => path.map((raw) => (raw[0] === '"' ? unquote(raw) : Number(raw)));

/** The value at a path; undefined where there is none. */
export const valueAt = (node, path) => path.reduce((inner, part) => (inner === undefined ? undefined : childOf(inner, part)), node);

/** The state after a patch. What the state was stays whole; trees in `owned` are this caller's to change. */
export function apply(state, patch, owned = new Set()) {
  const own = (node) => {
    if (owned.has(node)) return node;
    const copy = Array.isArray(node) ? node.slice() : new Map(node);
    owned.add(copy);
    return copy;
  };
  const put = (node, part, value) => { if (node instanceof Map) node.set(part, value); else node[part] = value; };
  for (const [raw, rawPath, value] of patch) {
    const operation = unquote(raw), path = partsOf(rawPath);
    const reordered = (node) => new Map(value.map(unquote).map((key) => [key, node.get(key)]));
    if (!path.length) { state = operation === "#" ? reordered(state) : value; continue; }
    let node = state = own(state);
    for (const part of path.slice(0, -1)) { const child = own(childOf(node, part)); put(node, part, child); node = child; }
    const last = path.at(-1);
    if (operation === "=") put(node, last, value);
    else if (operation === "#") put(node, last, reordered(childOf(node, last)));
    else if (node instanceof Map) node.delete(last);
    else node.length = last;
  }
  return state;
}

/** What a patch changed in the state before it, as a tree of marks: {kind, before} where a value was added, changed or removed, {kids} on the way there. */
export function marksOf(patch, before) {
  const root = { kids: new Map() };
  for (const [raw, rawPath] of patch) {
    const operation = unquote(raw), path = partsOf(rawPath);
    if (operation === "#") continue;
    let mark = root;
    for (const part of path) {
      mark.kids ??= new Map();
      if (!mark.kids.has(part)) mark.kids.set(part, {});
      mark = mark.kids.get(part);
    }
    mark.before = valueAt(before, path);
    mark.kind = operation === "-" ? "removed" : mark.before === undefined ? "added" : "changed";
  }
  return root;
}

/** The paths of a patch that changed something. */
export const pathsOf = (patch) => patch.filter(([raw]) => raw !== '"#"').map(([, path]) => partsOf(path));

const NAME = /^(?!\p{Nd})[\p{L}\p{N}_][\p{L}\p{N}_-]*$/u;

/** A path as eslab writes it: a.b[0], odd keys quoted. */
export function formatPath(path) {
  return path.reduce((text, part) => {
    if (typeof part === "number") return `${text}[${part}]`;
    return text + (text ? "." : "") + (NAME.test(part) ? part : JSON.stringify(part));
  }, "");
}

// --- text as it may be shown ----------------------------------------------------------------------------------------------------------

// Controls, half surrogate pairs, and whatever is invisible or turns the text around: shown by their code.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\p{Cs}|[\u{e0000}-\u{e007f}]/gu;
const code = (char) => [...Array(char.length).keys()].map((at) => `\\u${char.charCodeAt(at).toString(16).padStart(4, "0")}`).join("");

/** The text with everything visible that would not be. */
export const visible = (text) => text.replace(HIDDEN, code);

/** A leaf as JSON writes it, its first `longest` characters. */
export function leafText(raw, longest = Infinity) {
  if (raw[0] !== '"') return visible(raw.slice(0, longest));
  const whole = raw.length - 2 <= longest;
  const inside = whole ? raw.slice(1, -1) : raw.slice(1, longest + 1).replace(/(?<=(?:^|[^\\])(?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?$/, "");
  const text = inside.includes("\\") ? JSON.stringify(JSON.parse(`"${inside}"`)) : `"${inside}"`;
  return visible(whole ? text : `${text.slice(0, -1)}…`);
}

/** One line of JSON for a tree, cut at about `longest` characters. */
export function preview(node, longest) {
  let text = "";
  const add = (inner) => {
    if (text.length > longest) return;
    if (!isTree(inner)) { text += leafText(inner, longest); return; }
    const map = inner instanceof Map;
    text += map ? "{" : "[";
    let first = true;
    for (const item of inner) {
      if (text.length > longest) break;
      text += first ? "" : ", ";
      first = false;
      if (map) text += `${visible(JSON.stringify(item[0].slice(0, longest)))}: `;
      add(map ? item[1] : item);
    }
    text += map ? "}" : "]";
  };
  add(node);
  return text.length > longest ? `${text.slice(0, longest)}…` : text;
}

// --- the reader -----------------------------------------------------------------------------------------------------------------------

const NEAR = 8; // states kept on the way to one that is asked for: stepping back from there then costs nothing
const KEPT = 64;

/** The steps of a text: each is parsed when it is asked for, states are made from the nearest one that is whole. */
export function reader(text) {
  const lines = text.split("\n");
  const [headerText, initial] = lines[0].split("\t");
  const header = JSON.parse(headerText);
  const kept = new Map([[header.first, parse(initial)]]);
  const heads = new Map();
  const fields = (position) => lines[position - header.first].split("\t");
  const remember = (position, state) => {
    kept.delete(position);
    kept.set(position, state);
    if (kept.size > KEPT) kept.delete([...kept.keys()].find((one) => one !== header.first));
  };
  const patch = (position) => parse(fields(position)[2]);
  const state = (position) => {
    if (kept.has(position)) return kept.get(position);
    const whole = lastUpTo(header.keys, position);
    let from = header.first;
    for (const one of kept.keys()) if (one <= position && one > from) from = one;
    if (whole > from) remember(from = whole, parse(fields(whole)[3]));
    let value = kept.get(from), owned = new Set();
    for (let at = from + 1; at <= position; at++) {
      value = apply(value, patch(at), owned);
      if (position - at < NEAR) { remember(at, value); owned = new Set(); }
    }
    return value;
  };
  const head = (position) => {
    if (heads.has(position)) return heads.get(position);
    const line = lines[position - header.first];
    const [type, marks, problem, recorded, happened, late, clock, id, version, source, at, correlation, causation, trace, changes] =
      JSON.parse(line.slice(0, line.indexOf("\t")));
    const told = { type, marks, problem, recorded, happened, late, clock, id, version, source, at, correlation, causation, trace, changes };
    if (heads.size > 2000) heads.clear();
    heads.set(position, told);
    return told;
  };
  return { header, head, patch, state, data: (position) => parse(fields(position)[1]) };
}

function lastUpTo(sorted, wanted) {
  let low = 0, high = sorted.length;
  while (low < high) { const middle = (low + high) >> 1; if (sorted[middle] <= wanted) low = middle + 1; else high = middle; }
  return low ? sorted[low - 1] : -1;
}

// --- the view -------------------------------------------------------------------------------------------------------------------------

const PAGE = 100; // children of one object or list that are drawn at a time
const CUT = 240, MORE = 10_000; // characters of a string that are shown at first, and with each "show more"
const PREVIEW = 72;
const NARROW = 700; // pixels; below it the list stands above the rest
const ROW = 30; // pixels of a row in the list of events
const LEAP = 10; // steps of PageUp and PageDown
const MARKS = {
  duplicate: ["⧉", "an event id seen before in this history; folded again, as delivered"],
  undecodable: ["?", "the record could not be decoded; the state stays as it was"],
  unhandled: ["○", "the projection has no handler for this type; the state stays as it was"],
  tombstone: ["†", "a null value: the state is the initial one again"],
  failed: ["✕", "the handler raised; the state stays as it was, and nothing after it is folded"],
  skipped: ["»", "not folded, because an earlier step failed"],
  "no JSON": ["!", "the handler left in the state what no state may hold"],
};
const CLOCKS = { create: "the producer's clock", append: "the broker's clock" };
const SIGNS = { added: "+", changed: "±", removed: "−" };
const HELP = [[["←", "→"], "one step"], [["PgUp", "PgDn"], "ten steps"], [["Home", "End"], "first, last"], [["↑", "↓"], "one step in the list"]];

/** An element: handlers and attributes, then children; text is always text. */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const name in attributes) {
    const value = attributes[name];
    if (name === "class") element.className = value;
    else if (typeof value === "function") element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child !== "" && child !== null && child !== undefined) element.append(child);
  return element;
}

const bdi = (text, name) => h("bdi", name ? { class: name } : null, visible(text));
const grouped = new Intl.NumberFormat("en").format;
const count = (number, word) => `${grouped(number)} ${word}${number === 1 ? "" : "s"}`;
const badge = (mark) => h("span", { class: "es-mark", "data-mark": mark, title: MARKS[mark]?.[1] }, `${MARKS[mark]?.[0] ?? "!"} ${mark}`);

function typeOf(head, name = "") {
  if (head.type !== null) return bdi(head.type, name);
  return h("em", { class: name }, head.marks.includes("undecodable") ? "(undecodable)" : "(tombstone)");
}

function lateness(ms) {
  const size = Math.abs(ms);
  const units = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1000, "s"]];
  const at = units.findIndex(([one]) => size >= one);
  if (at < 0) return `${size} ms`;
  const [one, name] = units[at], rest = units[at + 1];
  if (!rest) return `${(size / 1000).toFixed(size < 10_000 ? 1 : 0)} s`;
  return `${Math.floor(size / one)} ${name} ${Math.floor((size % one) / rest[0])} ${rest[1]}`;
}

/** Draws trees; remembers what was unfolded, by path, from step to step. `redraw` is called when that changes. */
function trees(redraw) {
  const limits = new Map(); // path → children shown, 0: folded by hand
  const lengths = new Map(); // path → characters shown
  const set = (map, key, value) => () => { map.set(key, value); redraw(); };

  function leaf(raw, key, name = "") {
    const longest = lengths.get(key) ?? CUT;
    const text = leafText(raw, longest);
    const kind = raw[0] === '"' ? "es-text" : /[-0-9]/.test(raw[0]) ? "es-number" : "es-word";
    const shown = h("bdi", { class: `es-leaf ${kind} ${name}` }, text);
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
    const sign = h("span", { class: "es-sign", "aria-hidden": "true" }, SIGNS[kind] ?? "");
    const word = kind ? h("span", { class: "es-kind" }, kind) : "";
    const row = (...parts) => h("li", { class: `es-node ${kind ? `es-${kind}` : ""}`, "data-path": formatPath(path) }, parts);
    if (kind === "removed") {
      return row(h("div", { class: "es-row" }, sign, name, ": ", h("del", { class: "es-old" }, short(mark.before, "es-leaf")), " ", word));
    }
    const old = kind === "changed" ? [h("del", { class: "es-old" }, short(mark.before, "es-leaf")), h("span", { class: "es-arrow" }, " → ")] : [];
    if (!isTree(value)) {
      const now = kind ? h("ins", { class: "es-new" }, leaf(value, key)) : h("span", {}, leaf(value, key));
      return row(h("div", { class: "es-row" }, sign, name, ": ", old, now, " ", word));
    }
    const onTheWay = Boolean(mark?.kids);
    const asked = limits.get(key);
    const limit = asked ?? (onTheWay ? (roomy ? PAGE : 0) : roomy && depth < 4 && sizeOf(value) <= 8 ? 8 : kind && sizeOf(value) <= 20 ? 20 : 0);
    const open = (onTheWay && asked !== -1) || (limit > 0 && sizeOf(value) > 0);
    const toggle = set(limits, key, open ? -1 : onTheWay ? 0 : PAGE);
    const fold = sizeOf(value)
      ? h("button", { type: "button", class: "es-fold", "aria-expanded": String(open), "data-key": key, onclick: toggle }, name)
      : name;
    const told = h("span", { class: "es-summary" }, summary(value), open ? "" : " ", open || !sizeOf(value) ? "" : short(value, "es-preview"));
    return row(
      h("div", { class: "es-row" }, sign, fold, ": ", old, told, " ", word),
      open ? children(value, onTheWay ? mark : null, path, prefix, Math.max(limit, 0), depth + 1, (roomy || !onTheWay) && sizeOf(value) <= 20) : "",
    );
  }

  /** A whole tree. With `marks` only what they mark, unless `all`. */
  function draw(value, marks, prefix, all) {
    if (marks?.kind) {
      const old = h("del", { class: "es-old" }, short(marks.before, "es-leaf"));
      return h("ul", { class: "es-tree" }, h("li", { class: "es-node es-changed", "data-path": "" }, h("div", { class: "es-row" }, old, " → ", h("ins", { class: "es-new" }, isTree(value) ? short(value, "es-leaf") : leaf(value, prefix)))),
        isTree(value) ? children(value, null, [], prefix, limits.get(`${prefix}[]`) ?? PAGE, 1, sizeOf(value) <= 20) : "");
    }
    if (!isTree(value)) return h("div", { class: "es-row" }, leaf(value, prefix));
    if (!sizeOf(value) && !marks?.kids.size) return h("p", { class: "es-none" }, value instanceof Map ? "{} (empty)" : "[] (empty)");
    return children(value, marks, [], prefix, limits.get(`${prefix}[]`) ?? (all ? PAGE : 0), 1, all && sizeOf(value) <= 20);
  }

  const unfolded = (prefix) => (limits.get(`${prefix}[]`) ?? 0) > 0;
  const fold = (prefix) => { for (const key of [...limits.keys()]) if (key.startsWith(prefix)) limits.delete(key); };
  return { draw, unfolded, fold };
}

/** The list of events: only the rows that can be seen are there. */
function eventList(book, go) {
  const { first, last } = book.header;
  const spacer = h("div", { class: "es-spacer", role: "presentation" });
  const box = h("div", { class: "es-list", role: "listbox", tabindex: 0, "aria-label": "Events" }, spacer);
  const id = `es-${Math.random().toString(36).slice(2)}`;
  spacer.style.height = `${(last - first + 1) * ROW}px`;
  const day = (text) => text?.slice(0, 10);
  const oneDay = last > first && day(book.head(first + 1).recorded) === day(book.head(last).recorded);
  let current = first;

  function item(position) {
    const properties = { class: "es-item", role: "option", id: `${id}-${position}`, "data-position": position, "aria-selected": String(position === current),
      "aria-setsize": last - first + 1, "aria-posinset": position - first + 1 };
    const number = h("span", { class: "es-number-of" }, grouped(position));
    const row = position === first
      ? h("div", properties, number, h("em", { class: "es-type" }, first ? `the state after step ${grouped(first)}` : "before the first event"))
      : event(position, properties, number);
    row.style.top = `${(position - first) * ROW}px`;
    return row;
  }

  function event(position, properties, number) {
    const head = book.head(position);
    const time = head.recorded?.split(" ").slice(oneDay ? 1 : 0, 2).join(" ") ?? "no time";
    const changes = h("span", { class: "es-changes", title: `${count(head.changes, "changed path")}` }, head.changes ? `±${head.changes}` : "·");
    return h("div", { ...properties, title: visible(`${head.type ?? ""} ${head.recorded ?? ""}`) }, number, typeOf(head, "es-type"), head.marks.map(badge), h("time", {}, time), changes);
  }

  const rows = new Map(); // position → its row, of those that are drawn
  let chosen = first, scrolled = 0, height = 600; // known without asking: to ask forces a layout

  function draw() {
    const from = Math.max(first, first + Math.floor(scrolled / ROW) - 2);
    const to = Math.min(last, from + Math.ceil(height / ROW) + 4);
    for (const [position, row] of rows) if (position < from || position > to) { row.remove(); rows.delete(position); }
    const next = spacer.firstElementChild, begin = next ? Number(next.dataset.position) : Infinity; // what stays is in one piece, and in order
    for (let position = from; position <= to; position++) {
      if (rows.has(position)) continue;
      const row = item(position);
      rows.set(position, row);
      if (position < begin) spacer.insertBefore(row, next); else spacer.append(row);
    }
    rows.get(chosen)?.setAttribute("aria-selected", "false");
    rows.get(current)?.setAttribute("aria-selected", "true");
    chosen = current;
    if (rows.has(current)) box.setAttribute("aria-activedescendant", `${id}-${current}`);
    else box.removeAttribute("aria-activedescendant");
  }

  function show(position) {
    current = position;
    const top = (position - first) * ROW, whole = (last - first + 1) * ROW;
    if (top < scrolled || top + ROW > scrolled + height) box.scrollTop = scrolled = Math.max(0, Math.min(top - height / 2, whole - height));
    draw();
  }

  const measure = () => { scrolled = box.scrollTop; height = box.clientHeight || 600; draw(); };
  box.addEventListener("scroll", measure, { passive: true });
  box.addEventListener("click", (clicked) => {
    const row = clicked.target.closest(".es-item");
    if (row) go(Number(row.dataset.position));
  });
  return { box, show, measure };
}

function facts(head) {
  const row = (name, ...value) => [h("dt", {}, name), h("dd", {}, value)];
  const maybe = (name, text) => (text === null ? [] : row(name, bdi(text)));
  const late = head.late === null ? "" : h("span", { class: "es-note" }, head.late === 0 ? " at the moment it was recorded" : ` ${lateness(head.late)} ${head.late > 0 ? "before it was recorded" : "after it was recorded"}`);
  return h("dl", { class: "es-facts" },
    row("recorded", h("time", {}, head.recorded ?? "— (no timestamp)"), CLOCKS[head.clock] ? h("span", { class: "es-note" }, ` by ${CLOCKS[head.clock]}`) : ""),
    row("happened", h("time", {}, head.happened ?? "— (no time in the payload)"), late),
    maybe("id", head.id), maybe("source", head.source), row("record", bdi(head.at)), maybe("correlation", head.correlation), maybe("causation", head.causation), maybe("trace", head.trace));
}

function problems(head) {
  return head.marks.map((mark) => h("p", { class: "es-problem", "data-mark": mark },
    badge(mark), " ", h("span", {}, MARKS[mark]?.[1] ?? ""), head.problem && mark === head.marks.at(-1) ? [": ", h("strong", {}, bdi(head.problem))] : ""));
}

function changedPaths(paths) {
  if (!paths.length) return h("p", { class: "es-none" }, "this step changed nothing");
  const some = paths.slice(0, 8).map((path) => h("code", {}, bdi(formatPath(path).slice(0, CUT) || "(all)")));
  return h("p", { class: "es-paths" }, `${count(paths.length, "changed path")}: `, some.flatMap((one, at) => (at ? [", ", one] : [one])), paths.length > 8 ? ` and ${grouped(paths.length - 8)} more` : "");
}

function textOf(sent) {
  return typeof sent === "string" ? sent : new TextDecoder().decode(sent);
}

function render({ model, el }) {
  const book = reader(textOf(model.get("_lines")));
  const { name, projection, first, last, total, marks, notes } = book.header;
  let position = -1, all = false;
  const { draw, unfolded, fold } = trees(() => drawPane());
  const list = eventList(book, (to) => go(to));

  const button = (label, sign, to) => h("button", { type: "button", class: "es-button", "aria-label": label, title: label, onclick: () => go(to()) }, sign);
  const back = [button("First", "|◀", () => first), button("Back", "◀", () => position - 1)];
  const forth = [button("Forward", "▶", () => position + 1), button("Last", "▶|", () => last)];
  const slider = h("input", { type: "range", class: "es-slider", min: first, max: last, step: 1, "aria-label": "Position", oninput: () => go(Number(slider.value)) });
  const where = h("span", { class: "es-where" });
  const said = h("div", { class: "es-said", role: "status" });
  const event = h("div", { class: "es-event", role: "group", "aria-label": "Event" });
  const state = h("div", { class: "es-state", role: "group", "aria-label": "State" });
  // groups, not regions: two steppers side by side would be two landmarks of one name
  const pane = h("div", { class: "es-pane", role: "group", "aria-label": "Event and state", tabindex: 0 }, event, state);
  const chips = Object.entries(marks).map(([mark, steps]) => h("button", { type: "button", class: "es-chip", "data-mark": mark, title: `go to the next: ${MARKS[mark]?.[1] ?? mark}`,
    onclick: () => go(steps.find((one) => one > position) ?? steps[0]) }, `${MARKS[mark]?.[0] ?? "!"} ${grouped(steps.length)} ${mark}`));
  const help = h("div", { class: "es-help" }, HELP.map(([keys, text]) => h("span", {}, keys.flatMap((key) => [h("kbd", {}, key), " "]), text)));
  const root = h("div", { class: "eslab-stepper", role: "group", tabindex: -1, "aria-label": visible(`Stepper: ${name}`) },
    h("div", { class: "es-top" }, h("h2", { class: "es-name" }, bdi(name)), h("span", { class: "es-note" }, count(total, "step"), " by ", bdi(projection)), h("span", { class: "es-chips" }, chips)),
    notes.map((note) => h("p", { class: "es-banner", role: "note" }, "⚠ ", bdi(note))),
    h("div", { class: "es-bar" }, back, slider, forth, where),
    h("div", { class: "es-main" }, list.box, pane), help, said);

  function drawPane() {
    const focused = root.getRootNode().activeElement, inside = pane.contains(focused) && focused !== pane, key = focused?.dataset?.key ?? focused?.className;
    const head = position > first ? book.head(position) : null;
    const now = book.state(position);
    const patch = head ? book.patch(position) : [];
    const tree = head ? marksOf(patch, book.state(position - 1)) : { kids: new Map() };
    event.replaceChildren(...(head ? eventParts(head) : [h("h3", {}, first ? `After step ${grouped(first)}` : "Before the first event"), h("p", { class: "es-none" }, first ? "earlier steps are not shown here" : "the initial state")]));
    const whole = all || unfolded("state ");
    const toggle = h("button", { type: "button", class: "es-button es-all", "aria-pressed": String(whole), onclick: () => { all = !whole; if (whole) fold("state "); drawPane(); } }, "Show unchanged");
    state.replaceChildren(h("div", { class: "es-heading" }, h("h3", {}, `State after step ${grouped(position)}`), toggle),
      ...(head ? [changedPaths(pathsOf(patch))] : []), draw(now, tree, "state ", all || !head));
    if (inside) ([...pane.querySelectorAll("button")].find((one) => (one.dataset.key ?? one.className) === key) ?? pane).focus({ preventScroll: true });
  }

  function eventParts(head) {
    const version = head.version === null ? "" : h("span", { class: "es-note" }, " version ", bdi(head.version));
    const data = book.data(position);
    return [h("h3", {}, typeOf(head), version), ...problems(head), facts(head),
      data === "null" ? h("p", { class: "es-none" }, "no data") : h("div", { class: "es-data" }, h("h4", {}, "data"), draw(data, null, "data ", true))];
  }

  function show(to) {
    if (to === position) return;
    position = to;
    const head = to > first ? book.head(to) : null;
    const text = `Step ${grouped(to)} of ${grouped(last)}`;
    root.dataset.position = to;
    where.textContent = text;
    slider.value = to;
    const spoken = head ? visible([text, head.type ?? "", ...head.marks].filter(Boolean).join(", ")) : `${text}, before the first event`;
    slider.setAttribute("aria-valuetext", spoken);
    said.textContent = spoken;
    for (const one of back) one.disabled = to === first;
    for (const one of forth) one.disabled = to === last;
    list.show(to);
    drawPane();
    pane.scrollTop = 0;
  }

  function go(to) {
    const wanted = Math.min(last, Math.max(first, to)), had = root.getRootNode().activeElement;
    if (wanted === position) return;
    show(wanted);
    if (had?.disabled) root.focus({ preventScroll: true }); // a button at its end: the keys must go on
    try {
      model.set("position", wanted);
      model.save_changes();
    } catch { /* no kernel: stepping goes on without Python */ }
  }

  const moves = { ArrowLeft: () => position - 1, ArrowRight: () => position + 1, PageUp: () => position - LEAP, PageDown: () => position + LEAP, Home: () => first, End: () => last };
  const listMoves = { ArrowUp: moves.ArrowLeft, ArrowDown: moves.ArrowRight };
  // Plain keys are ours, not the notebook's ("b" makes a cell), and Ctrl+S still saves. JupyterLab takes what bubbles up to the document, Notebook 7 what comes
  // down from it: it asks the element that has the focus for this attribute, and no other, where a binding is on `:focus`.
  const plain = (pressed) => !(pressed.ctrlKey || pressed.altKey || pressed.metaKey || pressed.key === "Escape");
  const claim = (pressed) => {
    const target = pressed.composedPath()[0];
    if (root.contains(target)) target.toggleAttribute("data-lm-suppress-shortcuts", plain(pressed));
  };
  window.addEventListener("keydown", claim, { capture: true }); // before anyone on the document
  root.addEventListener("keydown", (pressed) => {
    if (!plain(pressed)) return;
    pressed.stopPropagation();
    if (pressed.shiftKey) return;
    const move = moves[pressed.key] ?? (pane.contains(pressed.target) ? undefined : listMoves[pressed.key]);
    if (!move) return;
    pressed.preventDefault();
    go(move());
  });

  const follow = () => show(model.get("position"));
  const resize = () => { root.style.height = model.get("height") ? `${model.get("height")}px` : "100%"; list.measure(); };
  el.append(root);
  resize();
  show(model.get("position"));
  model.on("change:position", follow);
  model.on("change:height", resize);
  const observer = new ResizeObserver(() => { // a notebook draws its outputs before it shows them
    root.classList.toggle("es-narrow", root.clientWidth > 0 && root.clientWidth < NARROW);
    list.measure();
    list.show(position);
  });
  observer.observe(root);
  observer.observe(list.box);
  return () => { observer.disconnect(); window.removeEventListener("keydown", claim, { capture: true }); model.off("change:position", follow); model.off("change:height", resize); };
}

export default { render };
