// Breakpoints: [kind, what] where a run stops. A step by its position, every step of a type (null: without one) or with a mark, every change of what stands at a path.

/** The nearest step past `from` (way 1) or before it (-1) at which one of the breakpoints holds, as {position, breakpoint}; null if there is none. */
export function nextStop(book, breakpoints, from, way) {
  let nearest = null;
  for (const breakpoint of breakpoints) {
    const position = STOPS[breakpoint[0]](book, breakpoint[1], from, way);
    if (position !== undefined && (!nearest || way * (nearest.position - position) > 0)) nearest = { position, breakpoint };
  }
  return nearest;
}

const STOPS = {
  step: (book, step, from, way) => (way * (step - from) > 0 && step > book.header.first && step <= book.header.last ? step : undefined),
  mark(book, mark, from, way) {
    const steps = book.header.marks[mark] ?? [];
    return way > 0 ? steps[countUpTo(steps, from)] : steps[countUpTo(steps, from - 1) - 1];
  },
  type(book, type, from, way) {
    const { first, last } = book.header;
    for (let at = from + way; at > first && at <= last; at += way) if (book.type(at) === type) return at;
    return undefined;
  },
  change: (book, path, from, way) => book.causes(parsePath(path), from + way, way).next().value?.position,
};

/** Whether it is one that this page knows: what is kept may come from elsewhere. */
const isBreakpoint = ([kind, what]) => kind in STOPS && (kind !== "change" || parsePath(what) !== null);

/** A breakpoint in words. */
function saidOf([kind, what]) {
  if (kind === "step") return `at step ${grouped(what)}`;
  if (kind === "change") return `on a change of ${what || "(all)"}`;
  return kind === "mark" ? `on ${what}` : `on ${what ?? NO_TYPE}`;
}
