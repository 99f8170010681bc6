// What set a value: the steps that changed what stands at a path, newest first, each a way there.

const CAUSES = 20; // that are looked up at a time

/** `at` tells the position, `go` steps, `watch` keeps an eye on the path, `stop` sets or lifts a breakpoint on its changes, which `stops` tells; `tell` says why a
 *  run went nowhere. */
function blame(book, { at, go, watch, stop, stops, tell }) {
  const { first, last } = book.header, clock = clockOf(book);
  let path = null, until = 0, limit = CAUSES, asker = null;
  const box = h("div", { class: "es-blame", role: "group", tabindex: -1, "aria-label": "What set it" });
  const nameOfButton = (one) => one.getAttribute("aria-label") ?? one.textContent;
  box.hidden = true;

  function row(position, name, told) {
    const place = [h("span", { class: "es-number-of" }, position > first ? grouped(position) : "—"), name];
    return h("li", {}, button([...place, told].flat(), { "data-position": position, "aria-current": position === at() ? "step" : null, onclick: () => go(position) }, "es-cause"));
  }

  function cause({ position, value, inner }) {
    const head = book.head(position);
    const told = inner.length
      ? [h("span", { class: "es-kind" }, "within"), " ", inner.slice(0, 4).map((one) => formatPath(one)).join(", "), inner.length > 4 ? ` and ${grouped(inner.length - 4)} more` : ""]
      : value === undefined ? h("span", { class: "es-kind" }, "removed") : ["= ", preview(value, PREVIEW)];
    return row(position, [typeOf(head, "es-type"), h("time", {}, clock(head))], h("bdi", { class: "es-leaf" }, [told].flat().map((part) => (typeof part === "string" ? visible(part) : part))));
  }

  function draw() {
    box.hidden = path === null;
    if (path === null) { box.replaceChildren(); return; }
    const focused = box.getRootNode().activeElement, had = box.contains(focused) ? nameOfButton(focused) : null;
    const name = formatPath(path), found = [], looked = book.causes(path, until, -1);
    while (found.length < limit) { const { value, done } = looked.next(); if (done) break; found.push(value); }
    const all = found.length < limit, later = book.causes(path, until + 1, 1).next().value;
    const begin = all ? valueAt(book.state(first), path) : undefined;
    const more = (text, then) => h("li", { class: "es-rest" }, button(text, { onclick: () => { then(); draw(); } }, "es-more"));
    box.replaceChildren(
      h("div", { class: "es-heading" }, h("h3", {}, "What set ", h("code", {}, bdi(name.slice(0, CUT) || "(all)")), h("span", { class: "es-note" }, until < last ? `, up to step ${grouped(until)}` : "")),
        h("span", { class: "es-buttons" },
          button("◀", { "aria-label": "Previous change", title: "run back to its last change: L", onclick: () => run(-1) }),
          button("▶", { "aria-label": "Next change", title: "run on to its next change: ⇧L", onclick: () => run(1) }),
          button("Watch", { onclick: () => watch(name) }),
          button("Break on change", { "aria-pressed": String(stops(name)), onclick: () => stop(name) }),
          button("×", { "aria-label": "Close", title: "close: Escape", onclick: close }))),
      h("ol", { class: "es-causes" },
        later ? more(`… changed again at step ${grouped(later.position)}; show all`, () => { until = last; }) : "",
        found.map(cause),
        begin !== undefined ? row(first, h("em", { class: "es-type" }, first ? "before the steps shown here" : "initial state"), h("bdi", { class: "es-leaf" }, `= ${preview(begin, PREVIEW)}`)) : "",
        all ? "" : more("… show older ones", () => { limit += CAUSES; }),
        all && !found.length && begin === undefined ? h("li", { class: "es-none" }, "nothing set it up to here") : ""));
    if (had !== null) ([...box.querySelectorAll("button")].find((one) => nameOfButton(one) === had) ?? box).focus({ preventScroll: true });
  }

  function ask(of, from = null) {
    [path, until, limit, asker] = [of, at(), CAUSES, from];
    draw();
    box.focus({ preventScroll: true });
    from?.scrollIntoView({ block: "nearest" }); // there is less room above now
  }

  function close() {
    if (path === null) return false;
    path = null;
    draw();
    if (asker?.isConnected) asker.focus({ preventScroll: true });
    return true;
  }

  /** To the nearest change of the path: run on, or back. */
  function run(way) {
    if (path === null) { tell("click a value first: the run is to its changes"); return; }
    const found = book.causes(path, at() + way, way).next().value;
    if (found) go(found.position);
    else tell(`no ${way > 0 ? "later" : "earlier"} change of ${formatPath(path) || "(all)"}`);
  }

  function show(position) {
    for (const one of box.querySelectorAll(".es-cause")) {
      if (Number(one.dataset.position) === position) one.setAttribute("aria-current", "step");
      else one.removeAttribute("aria-current");
    }
  }

  return { box, ask, close, run, show, draw };
}
