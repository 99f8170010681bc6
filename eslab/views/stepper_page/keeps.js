// What the reader keeps: watched paths, breakpoints, bookmarks; each a list that folds, below the events.

const KINDS = ["watched", "breakpoints", "bookmarks"];

/** `get` and `set` hold the lists by their kind, `at` tells the position, `go` steps, `ask` asks what set a path. */
function keeps(book, { get, set, at, go, ask }) {
  const { first, last, types, marks } = book.header;
  const clock = clockOf(book);
  let watching = []; // of each watched path: what of its row changes from step to step

  const without = (list, one) => list.filter((other) => JSON.stringify(other) !== JSON.stringify(one));
  const has = (kind, one) => get(kind).some((other) => JSON.stringify(other) === JSON.stringify(one));
  const add = (kind, one) => { if (!has(kind, one)) set(kind, [...get(kind), one]); };
  const toggle = (kind, one) => set(kind, has(kind, one) ? without(get(kind), one) : [...get(kind), one]);
  const known = {
    watched: () => get("watched").filter((path) => parsePath(path) !== null),
    breakpoints: () => get("breakpoints").filter(isBreakpoint),
    bookmarks: () => get("bookmarks").filter((one) => one >= first && one <= last).sort((one, other) => one - other),
  };

  function fold(title) {
    const summary = h("summary", {}), rows = h("ul", { class: "es-rows" }), below = h("div", { class: "es-adding" });
    return { title, summary, rows, below, box: h("details", { class: "es-fold-of" }, summary, rows, below) };
  }
  const folds = { watched: fold("Watch"), breakpoints: fold("Breakpoints"), bookmarks: fold("Bookmarks") };

  const item = (kind, one, said, ...parts) => h("li", {}, parts, removal(said, () => set(kind, without(get(kind), one))));
  const draws = {
    watched() {
      watching = known.watched().map((text) => ({ text, path: parsePath(text), sign: h("span", { class: "es-sign" }), value: h("bdi", { class: "es-leaf" }), said: "" }));
      return watching.map(({ text, path, sign, value }) => item("watched", text, `${text} from the watched`,
        sign, button(bdi(text || "(all)"), { title: "what set it", onclick: (clicked) => ask(path, clicked.currentTarget) }, "es-link"), "=", value));
    },
    breakpoints: () => known.breakpoints().map((one) => item("breakpoints", one, `the breakpoint ${saidOf(one)}`, h("span", { "aria-hidden": "true" }, "● "), bdi(saidOf(one)))),
    bookmarks: () => known.bookmarks().map((one) => item("bookmarks", one, `the bookmark at step ${grouped(one)}`, h("span", { "aria-hidden": "true" }, "★ "),
      button([`step ${grouped(one)} `, ...(one > first ? [typeOf(book.head(one)), ` ${clock(book.head(one))}`] : [])], { onclick: () => go(one) }, "es-link"))),
  };

  function draw(kind) {
    const { title, summary, rows, box } = folds[kind], made = draws[kind](), had = Number(box.dataset.number ?? 0);
    const focused = rows.contains(rows.getRootNode().activeElement);
    summary.textContent = made.length ? `${title} (${grouped(made.length)})` : title;
    rows.replaceChildren(...made);
    if (focused) summary.focus({ preventScroll: true }); // what had it may be gone
    if (kind === "watched" && made.length > had) box.open = true; // what was added is looked at; of the others the numbers tell enough
    box.dataset.number = made.length;
    if (kind === "watched") show(at());
  }

  /** The values of watched paths after a step, and which of them it changed. */
  function show(position) {
    if (!watching.length) return;
    const now = book.state(position), before = position > first ? book.state(position - 1) : now;
    for (const one of watching) {
      const value = valueAt(now, one.path), mark = differences(valueAt(before, one.path), value);
      const said = value === undefined ? "— (not there)" : preview(value, PREVIEW), sign = mark ? SIGNS[mark.kind ?? "changed"] : "";
      if (said !== one.said) one.value.textContent = one.said = said;
      if (sign !== one.sign.textContent) one.sign.textContent = sign;
      one.sign.title = mark ? `${mark.kind ?? "changed"} by this step` : "";
    }
  }

  const path = h("input", { type: "text", class: "es-input", "aria-label": "A path to watch", placeholder: "a path, like items[0].price", spellcheck: "false" });
  const watch = () => {
    const wrong = !path.value.trim() || parsePath(path.value.trim()) === null;
    path.toggleAttribute("aria-invalid", wrong);
    path.title = wrong ? "no path; write one like items[0].price" : "";
    if (!wrong) { add("watched", formatPath(parsePath(path.value.trim()))); path.value = ""; }
  };
  path.addEventListener("keydown", (pressed) => { if (pressed.key === "Enter") watch(); });
  folds.watched.below.append(path, button("Watch", { onclick: watch }));

  const choices = [["step", null], ...types.map((type) => ["type", type]), ...Object.keys(marks).map((mark) => ["mark", mark])];
  const choice = h("select", { class: "es-input", "aria-label": "Where to break" }, choices.map(([kind, what], number) => h("option", { value: number }, visible(kind === "step" ? "at this step" : saidOf([kind, what])))));
  const stop = () => {
    const [kind, what] = choices[Number(choice.value)];
    if (kind !== "step") add("breakpoints", [kind, what]);
    else if (at() > first) add("breakpoints", [kind, at()]);
  };
  folds.breakpoints.below.append(choice, button("Break", { onclick: stop }));
  folds.bookmarks.below.append(button("Bookmark this step", { onclick: () => toggle("bookmarks", at()) }));

  return { box: h("div", { class: "es-keeps" }, KINDS.map((kind) => folds[kind].box)), draw, show, has, add, toggle, known };
}
