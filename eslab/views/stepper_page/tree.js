// Values as trees: an object is a Map (its order is kept, no key is special), a list an Array, anything else the JSON text itself: no number is ever converted.

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

/** How `after` differs from `before`, as marks of the same kind; null if it does not. Lists are compared position by position. */
export function differences(before, after) {
  if (before === after) return null;
  if (before === undefined) return { kind: "added" };
  if (after === undefined) return { kind: "removed", before };
  if (!isTree(before) || !isTree(after) || Array.isArray(before) !== Array.isArray(after)) return { kind: "changed", before };
  const kids = new Map();
  for (const part of new Set([...before.keys(), ...after.keys()])) {
    const mark = differences(childOf(before, part), childOf(after, part));
    if (mark) kids.set(part, mark);
  }
  return kids.size ? { kids } : null;
}

/** The paths at which marks stand. */
export function* markedPaths(mark, path = []) {
  if (mark.kind) yield path;
  else for (const [part, inner] of mark.kids) yield* markedPaths(inner, [...path, part]);
}

const NAME = /^(?!\p{Nd})[\p{L}\p{N}_][\p{L}\p{N}_-]*$/u;

/** A path as eslab writes it: a.b[0], odd keys quoted. */
export function formatPath(path) {
  return path.reduce((text, part) => {
    if (typeof part === "number") return `${text}[${part}]`;
    return text + (text ? "." : "") + (NAME.test(part) ? part : JSON.stringify(part));
  }, "");
}

const PART = /\[(\d+)\]|\.?(?:("(?:[^"\\]|\\.)*")|((?!\p{Nd})[\p{L}\p{N}_][\p{L}\p{N}_-]*))/uy;

/** The path of a text that `formatPath` wrote, or someone like it; null where it is none. */
export function parsePath(text) {
  const path = [];
  for (let at = 0; at < text.length; at = PART.lastIndex) {
    PART.lastIndex = at;
    const found = PART.exec(text);
    if (!found) return null;
    const [, index, quoted, name] = found;
    try { path.push(index !== undefined ? Number(index) : name ?? JSON.parse(quoted)); } catch { return null; }
  }
  return path;
}
