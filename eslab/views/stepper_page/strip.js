// The timeline: when what came. A lane for each of the commonest types, so that place tells them apart, not colour; where many events fall together, their marks are
// as high as there are many.

const LANES = 6;
const BINS = 240; // of the whole width: a few pixels each
const LEAST = 0.3; // of a lane's height: a single event beside thousands can still be seen

/** `go` is asked to step; `flags` tells all that the reader and the history marked, as [position, sign, word]. */
function timeline(book, { go, flags }) {
  const { first, last, types } = book.header;
  const begin = book.time(first), span = book.time(last) - begin, clock = clockOf(book);
  const share = (position) => {
    if (span > 0) return (book.time(position) - begin) / span;
    return last - first > 1 ? Math.max(position - first - 1, 0) / (last - first - 1) : 0; // all at one moment: evenly
  };
  const bin = (position) => Math.round(share(position) * (BINS - 1));

  const counts = types.map(() => new Uint32Array(BINS)), totals = types.map(() => 0);
  for (let at = first + 1; at <= last; at++) {
    const type = book.header.type_of[at - first - 1];
    counts[type][bin(at)]++;
    totals[type]++;
  }
  const common = types.map((_, type) => type).sort((one, other) => totals[other] - totals[one] || one - other);
  const named = common.length > LANES ? common.slice(0, LANES - 1) : common;
  const lanes = named.toSorted((one, other) => one - other).map((type) => [type]); // by first appearance
  if (common.length > named.length) lanes.push(common.slice(named.length));

  function lane(of) {
    const sums = counts[of[0]].slice(), total = of.reduce((sum, type) => sum + totals[type], 0);
    for (const type of of.slice(1)) counts[type].forEach((number, at) => { sums[at] += number; });
    const most = Math.max(...sums);
    const name = of.length > 1 ? h("em", {}, count(of.length, "other type")) : types[of[0]] === null ? h("em", {}, NO_TYPE) : bdi(types[of[0]]);
    const ticks = [...sums.entries()].filter(([, number]) => number).map(([at, number]) => {
      const tick = h("i", { class: "es-tick" });
      tick.style.left = `${(100 * at) / BINS}%`;
      tick.style.height = `${100 * (LEAST + (1 - LEAST) * Math.sqrt(number / most))}%`;
      return tick;
    });
    const row = h("div", { class: "es-lane" }, ticks);
    row.addEventListener("click", (clicked) => { clicked.stopPropagation(); go(nearest(clicked, new Set(of))); });
    return { total, label: h("div", { class: "es-lane-name", title: visible(`${of.map((type) => types[type] ?? NO_TYPE).join(", ")}: ${count(total, "event")}`) }, name, h("span", { class: "es-note" }, ` ${grouped(total)}`)), row };
  }

  /** The position nearest in time to a click, of some types or of all. */
  function nearest(clicked, of) {
    const box = plots.getBoundingClientRect(), wanted = Math.min(Math.max((clicked.clientX - box.left) / box.width, 0), 1);
    let low = first + 1, high = last;
    while (low < high) { const middle = (low + high) >> 1; if (share(middle) < wanted) low = middle + 1; else high = middle; }
    const fits = (at) => !of || of.has(book.header.type_of[at - first - 1]);
    let before = low - 1, after = low;
    while (before > first && !fits(before)) before--;
    while (after <= last && !fits(after)) after++;
    if (before <= first) return after;
    if (after > last) return before;
    return wanted - share(before) <= share(after) - wanted ? before : after;
  }

  const drawn = lanes.map(lane);
  const cursor = h("div", { class: "es-cursor" });
  const flagged = h("div", { class: "es-flags" });
  const plots = h("div", { class: "es-plots" }, flagged, drawn.map((one) => one.row), cursor);
  plots.addEventListener("click", (clicked) => { if (last > first) go(nearest(clicked, null)); });
  const ends = last > first ? [first + 1, last].map((position) => h("span", {}, clock(book.head(position)))) : [];
  const said = `Timeline: ${count(last - first, "event")} of ${count(types.length, "type")}`;
  const box = h("div", { class: "es-strip", role: "group", "aria-label": said },
    h("div", { class: "es-lane-names" }, drawn.map((one) => one.label)), plots, h("div", { class: "es-ends" }, ends));
  box.hidden = last === first;

  const show = (position) => { cursor.style.transform = `translateX(${100 * share(position)}%)`; };

  /** Draw the flags anew: one of each sign where many would cover each other. */
  function redraw() {
    const places = new Map();
    for (const [position, sign, word] of flags()) {
      const key = `${sign} ${bin(position) >> 1}`;
      if (!places.has(key)) places.set(key, { position, sign, word, number: 0 });
      places.get(key).number++;
    }
    flagged.replaceChildren(...[...places.values()].map(({ position, sign, word, number }) => {
      const said = number > 1 ? `${grouped(number)} × ${word}` : `step ${grouped(position)}: ${word}`;
      const flag = h("span", { class: "es-flag", role: "img", "aria-label": visible(said), title: visible(said) }, sign);
      flag.style.left = `${100 * share(position)}%`;
      flag.addEventListener("click", (clicked) => { clicked.stopPropagation(); go(position); });
      return flag;
    }));
    box.classList.toggle("es-flagged", places.size > 0);
  }

  return { box, show, redraw };
}
