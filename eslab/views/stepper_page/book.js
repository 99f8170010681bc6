// The history that was sent: a text, specified in eslab/stepping.py, of which each line is parsed when it is looked at.

const NEAR = 8; // states kept on the way to one that is asked for: stepping back from there then costs nothing
const KEPT = 64;
const PLAIN = /^[\w .:@/-]*$/; // keys that are written one way only, so that a line may be searched for them before it is parsed

/** What `eslab.stepping` wrote, of the bytes that zlib made of it. */
export function unpacked(packed) {
  return new Response(new Response(packed).body.pipeThrough(new DecompressionStream("deflate"))).text(); // twice as fast as of a Blob
}

/** The steps of a text. Positions count steps: `first` is the state before the first one that was sent. */
export function reader(text) {
  const lines = text.split("\n");
  const [headerText, initial] = lines[0].split("\t");
  const header = JSON.parse(headerText);
  const { first, last } = header;
  const kept = new Map([[first, parse(initial)]]);
  const heads = new Map();

  function remember(position, state) {
    kept.delete(position);
    kept.set(position, state);
    if (kept.size > KEPT) kept.delete([...kept.keys()].find((one) => one !== first));
  }

  /** A line's field after so many tabs, as it was sent. */
  function field(position, number) {
    const line = lines[position - first];
    let start = 0;
    for (; number; number--) start = line.indexOf("\t", start) + 1;
    const end = line.indexOf("\t", start);
    return end < 0 ? line.slice(start) : line.slice(start, end);
  }

  const patch = (position) => parse(field(position, 2));

  function state(position) {
    if (kept.has(position)) return kept.get(position);
    const whole = lastUpTo(header.keys, position);
    let from = first;
    for (const one of kept.keys()) if (one <= position && one > from) from = one;
    if (whole > from) remember(from = whole, parse(field(whole, 3)));
    let value = kept.get(from), owned = new Set();
    for (let at = from + 1; at <= position; at++) {
      value = apply(value, patch(at), owned);
      if (position - at < NEAR) { remember(at, value); owned = new Set(); }
    }
    return value;
  }

  function head(position) {
    if (heads.has(position)) return heads.get(position);
    const [type, marks, problem, recorded, happened, id, version, source, at, correlation, causation, trace, late, clock, changes] = JSON.parse(field(position, 0));
    const told = { type, marks, problem, recorded, happened, id, version, source, at, correlation, causation, trace, late, clock, changes };
    if (heads.size > 2000) heads.clear();
    heads.set(position, told);
    return told;
  }

  /** What the event is found by: its head up to the trace, and its data. */
  function searched(position) {
    const line = lines[position - first], end = line.indexOf("\t");
    let head = end;
    for (let commas = 3; commas; commas--) head = line.lastIndexOf(",", head - 1); // of lateness, clock and changes
    const text = line.slice(0, head) + line.slice(end, line.indexOf("\t", end + 1));
    return text.includes("\\") ? unescaped(text) : text;
  }

  /** The positions of the steps whose event holds the text, in upper or lower case. */
  function search(wanted) {
    const pattern = new RegExp(wanted.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu");
    const found = [];
    for (let at = first + 1; at <= last; at++) if (pattern.test(searched(at))) found.push(at);
    return found;
  }

  /** The steps from `from` on (way 1) or back (-1) that changed what stands at a path, nearest first, as {position, value, inner}:
   *  the value it set (undefined: it was removed), or else the paths within it that it changed. */
  function* causes(path, from, way) {
    const [key] = path;
    const hint = typeof key === "string" && PLAIN.test(key) ? `",["${key}"` : '",[';
    for (let at = Math.min(Math.max(from, first + 1), last); at > first && at <= last && way * (at - from) >= 0; at += way) {
      const line = field(at, 2);
      if (!line.includes(hint) && !line.startsWith('[["=",[]')) continue;
      const cause = causeIn(parse(line), path, () => valueAt(state(at - 1), path));
      if (cause) yield { position: at, ...cause };
    }
  }

  return {
    header, head, patch, state, search, causes,
    data: (position) => parse(field(position, 1)),
    type: (position) => header.types[header.type_of[position - first - 1]],
    time: (position) => header.times_ms[Math.max(position - first - 1, 0)], // of the state before the first step: that step's
  };
}

/** What a patch did to the value at a path; null if nothing. `before` tells what stood there. */
function causeIn(patch, path, before) {
  const inner = [];
  for (const [raw, rawPath, set] of patch) {
    if (raw === '"#"') continue;
    const changed = partsOf(rawPath), shared = Math.min(changed.length, path.length);
    if (changed.slice(0, shared).some((part, at) => part !== path[at])) continue;
    if (changed.length > path.length) { inner.push(changed.slice(path.length)); continue; }
    const value = raw === '"="' ? valueAt(set, path.slice(changed.length)) : undefined;
    if (changed.length === path.length || value !== undefined || before() !== undefined) return { value, inner };
  }
  return inner.length ? { value: undefined, inner } : null;
}

const ESCAPES = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
const unescaped = (text) => text.replace(/\\(?:u([0-9a-fA-F]{4})|(.))/g, (_, code, char) => (code ? String.fromCharCode(parseInt(code, 16)) : ESCAPES[char] ?? char));

/** The last number of a sorted list that is not above `wanted`; -1 if there is none. */
function lastUpTo(sorted, wanted) {
  const at = countUpTo(sorted, wanted);
  return at ? sorted[at - 1] : -1;
}

/** How many numbers of a sorted list are not above `wanted`. */
function countUpTo(sorted, wanted) {
  let low = 0, high = sorted.length;
  while (low < high) { const middle = (low + high) >> 1; if (sorted[middle] <= wanted) low = middle + 1; else high = middle; }
  return low;
}
