// eslab's stepper: steps through the states of one history, wholly here, on a text that is sent once. The files of this folder are read in the order of
// stepper.py's _PARTS and run as one; this is the last of them.
//
// What tests may rely on. Roles and names: group "Stepper: <name>"; buttons "First", "Back", "Forward", "Last", "Previous stop", "Next stop", "Play" or "Pause",
// "Show unchanged", "Compare from here" or "Compare with the step before"; slider "Position"; searchbox "Search the events"; comboboxes "Which events", "Speed",
// "Where to break"; button "Copy"; listbox "Events" with options; groups "Event and state", "Event", "State", "What set it" (buttons "Previous change", "Next change", "Watch",
// "Break on change", "Close"), "Timeline: ..."; textbox "A path to watch"; status (what was stepped to, in words).
// Classes: .eslab-stepper (data-position), .es-where, .es-banner, .es-mark (data-mark), .es-problem, .es-chip (data-mark), .es-item (data-position), .es-gutter,
// .es-found, .es-facts, .es-event, .es-state, .es-node (data-path, as format_path writes it), .es-added, .es-changed, .es-removed, .es-old, .es-new, .es-fold,
// .es-more, .es-line, .es-help, .es-lane, .es-tick, .es-flag, .es-cursor, .es-blame, .es-cause (data-position), .es-keeps, .es-fold-of, .es-waits.

const NARROW = 700; // pixels; below it the list stands above the rest
const ROOMY = 480; // of the part with event and state; from it on there is room for two facts in a row
const LEAP = 10; // steps of PageUp and PageDown
const REST_MS = 300; // Python is told the position once it rests: stepping sends the kernel nothing

async function render({ model, el }) {
  const book = reader(await unpacked(model.get("_packed")));
  const { name, projection, first, last, total, marks, notes, line } = book.header;
  let position = -1, base = null, resting = null, scrolled = false; // base: the step that states are compared with, null: the one before each
  let stepsWithBreak = new Set(), marked = new Set();
  const at = () => position;

  // --- what is kept, here and in Python

  function save() {
    clearTimeout(resting);
    resting = null;
    model.set("position", position);
    try { model.save_changes(); } catch { /* no kernel: all goes on without Python */ }
  }
  const kept = keeps(book, { get: (kind) => model.get(kind) ?? [], set: (kind, list) => { model.set(kind, list); save(); }, at, go, ask: (path, from) => blamed.ask(path, from) });
  const flagsOf = (one) => [
    ...(stepsWithBreak.has(one) ? [["●", "breakpoint"]] : []), ...(marked.has(one) ? [["★", "bookmark"]] : []), ...(one === base ? [["⚑", "compared from here"]] : []),
  ];

  // --- the parts

  const list = eventList(book, { go, toggle: (one) => kept.toggle("breakpoints", ["step", one]), flagsOf });
  const strip = timeline(book, { go, flags: () => [
    ...Object.entries(marks).flatMap(([mark, steps]) => (COMMON.has(mark) ? [] : steps.map((one) => [one, signOf(mark), mark]))),
    ...[...new Set([...stepsWithBreak, ...marked, base ?? first])].flatMap((one) => flagsOf(one).map((flag) => [one, ...flag])),
  ] });
  const find = finder(book, { list: list.list, kept: (kind) => kept.known[kind]() });
  const blamed = blame(book, { at, go, tell,
    watch: (path) => kept.add("watched", path), stop: (path) => kept.toggle("breakpoints", ["change", path]), stops: (path) => kept.has("breakpoints", ["change", path]) });
  const tree = trees(redraw, STATE);
  const event = eventView(book, (data) => tree.draw(data, null, "data ", true));
  const state = stateView(book, { tree, pin });
  const ahead = (from, way = 1) => nextStop(book, kept.known.breakpoints(), from, way);
  const play = player(book, { at, go: step, ahead, tell: told });

  const mover = (label, sign, to) => button(sign, { "aria-label": label, title: label, onclick: () => go(to()) });
  const runner = (label, sign, way) => button(sign, { "aria-label": label, title: `${label}: run to the nearest breakpoint`, onclick: () => run(way) });
  const back = [mover("First", "|◀", () => first), mover("Back", "◀", () => position - 1)];
  const forth = [mover("Forward", "▶", () => position + 1), mover("Last", "▶|", () => last)];
  const slider = h("input", { type: "range", class: "es-slider", min: first, max: last, step: 1, "aria-label": "Position", oninput: () => go(Number(slider.value)) });
  const where = h("span", { class: "es-where" });
  const playing = button("Play", { onclick: play.toggle }, "es-button es-play");
  const speeds = [...new Set([...SPEEDS, play.speed(), EVEN])].map((one) => h("option", { value: one }, one === EVEN ? `${1000 / EVEN_MS} steps a second` : `× ${grouped(one)}`));
  const speed = h("select", { class: "es-input", "aria-label": "Speed", title: "times the pace at which events were recorded", onchange: () => play.setSpeed(Number(speed.value)) }, speeds);
  const waits = h("span", { class: "es-waits" });
  speed.value = play.speed();

  const said = h("div", { class: "es-said", role: "status" }), again = shellLine("es", tell);
  // groups, not regions: two steppers side by side would be two landmarks of one name
  const pane = h("div", { class: "es-pane", role: "group", "aria-label": "Event and state", tabindex: 0 }, event.box, state.box);
  const chips = Object.entries(marks).map(([mark, steps]) => button(`${signOf(mark)} ${grouped(steps.length)} ${mark}`,
    { "data-mark": mark, title: `go to the next: ${MARKS[mark]?.[1] ?? mark}`, onclick: () => go(steps.find((one) => one > position) ?? steps[0]) }, "es-chip"));
  const root = h("div", { class: "eslab-stepper", role: "group", tabindex: -1, "aria-label": visible(`Stepper: ${name}`) },
    h("div", { class: "es-top" }, h("h2", { class: "es-name" }, bdi(name)), h("span", { class: "es-note" }, count(total, "step"), " by ", bdi(projection)), h("span", { class: "es-chips" }, chips)),
    notes.map((note) => h("p", { class: "es-banner", role: "note" }, "⚠ ", bdi(note))),
    h("div", { class: "es-bar" }, back, runner("Previous stop", "●◀", -1), slider, runner("Next stop", "▶●", 1), forth, playing, speed, h("div", { class: "es-told" }, where, waits)),
    strip.box,
    h("div", { class: "es-main" }, h("div", { class: "es-left" }, find.box, list.box, kept.box), h("div", { class: "es-right" }, pane, blamed.box)),
    line ? again.box : "", help(), said);

  // --- one step

  function redraw() {
    keepingFocus(() => { event.show(position); state.show(position, base); });
  }

  /** Draw with the focus where it was, if something takes the place of what had it. */
  function keepingFocus(drawing) {
    const focused = root.getRootNode().activeElement, key = pane.contains(focused) ? focused.dataset.key : undefined;
    drawing();
    if (key !== undefined) ([...pane.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key) ?? pane).focus({ preventScroll: true });
  }

  function show(to) {
    if (to === position) return;
    position = to;
    list.show(to); // first, while all is laid out: to scroll is to ask for that, and would be asked of what is half written
    if (scrolled) pane.scrollTop = 0;
    const head = to > first ? book.head(to) : null;
    const text = `Step ${grouped(to)} of ${grouped(last)}`;
    const spoken = head ? visible([text, head.type ?? "", ...head.marks].filter(Boolean).join(", ")) : `${text}, before the first event`;
    root.dataset.position = to;
    where.textContent = text;
    slider.value = to;
    slider.setAttribute("aria-valuetext", spoken);
    said.textContent = spoken;
    if (line) again.show(line.join(to));
    for (const one of back) one.disabled = to === first;
    for (const one of forth) one.disabled = to === last;
    strip.show(to);
    redraw();
    kept.show(to);
    blamed.show(to);
  }

  function step(to) {
    const wanted = Math.min(last, Math.max(first, to)), had = root.getRootNode().activeElement;
    if (wanted === position) return;
    show(wanted);
    if (had?.disabled) root.focus({ preventScroll: true }); // a button at its end: the keys must go on
    clearTimeout(resting);
    resting = setTimeout(save, REST_MS);
  }

  function go(to) {
    step(to);
    play.moved();
  }

  // --- what the reader asks for

  function tell(text) {
    said.textContent = waits.textContent = visible(text);
  }

  function told({ playing: on, wait, stop }) {
    playing.textContent = on ? "Pause" : "Play";
    waits.textContent = on && wait >= 1000 ? `next in ${duration(wait)}` : "";
    if (stop) tell(`stopped ${saidOf(stop.breakpoint)}`);
  }

  function run(way) {
    const stop = ahead(position, way);
    if (stop) { go(stop.position); tell(`stopped ${saidOf(stop.breakpoint)}`); return; }
    tell(kept.known.breakpoints().length ? `no breakpoint ${way > 0 ? "ahead" : "before this step"}` : "no breakpoints yet: B sets one here");
  }

  function bookmarked(way) {
    const steps = kept.known.bookmarks(), to = way > 0 ? steps.find((one) => one > position) : steps.findLast((one) => one < position);
    if (to === undefined) tell(`no bookmark ${way > 0 ? "ahead" : "before this step"}`); else go(to);
  }

  function pin() {
    base = base === null ? position : null;
    redraw();
    flag();
  }

  function flag() {
    stepsWithBreak = new Set(kept.known.breakpoints().filter(([kind]) => kind === "step").map(([, one]) => one));
    marked = new Set(kept.known.bookmarks());
    list.redraw();
    strip.redraw();
  }

  pane.addEventListener("scroll", () => { scrolled = pane.scrollTop > 0; }, { passive: true });
  state.box.addEventListener("click", ({ target }) => {
    const value = target.closest("[role=button]");
    if (value && (root.ownerDocument.getSelection()?.isCollapsed ?? true)) blamed.ask(tree.pathOf(value), value); // not where text is being selected
  });

  const endKeys = keyboard(root, pane, {
    keys: {
      ArrowLeft: () => go(position - 1), ArrowRight: () => go(position + 1), PageUp: () => go(position - LEAP), PageDown: () => go(position + LEAP), Home: () => go(first), End: () => go(last),
      " ": play.toggle, b: () => { if (position > first) kept.toggle("breakpoints", ["step", position]); }, m: () => kept.toggle("bookmarks", position),
      r: () => run(1), "Shift+r": () => run(-1), n: () => bookmarked(1), "Shift+n": () => bookmarked(-1), l: () => blamed.run(-1), "Shift+l": () => blamed.run(1),
      c: pin, "/": () => find.text.focus(),
    },
    listKeys: { ArrowUp: () => go(list.beside(-1)), ArrowDown: () => go(list.beside(1)) },
    escape: () => (find.box.contains(root.getRootNode().activeElement) ? find.clear() : blamed.close()),
  });
  find.text.addEventListener("keydown", (pressed) => {
    if (pressed.key !== "Enter") return;
    find.now();
    list.box.focus({ preventScroll: true });
  });

  // --- the life of the view

  const heard = {
    "change:position": () => { // Python's, or another view's of the same stepper
      if (model.get("position") === position) return;
      clearTimeout(resting); // the last word wins
      resting = null;
      show(model.get("position"));
      play.moved();
    },
    "change:height": () => { root.style.height = model.get("height") ? `${model.get("height")}px` : "100%"; list.measure(); },
    "change:watched": () => kept.draw("watched"),
    "change:breakpoints": () => { kept.draw("breakpoints"); blamed.draw(); flag(); play.moved(); },
    "change:bookmarks": () => { kept.draw("bookmarks"); flag(); },
  };
  el.append(root);
  heard["change:height"]();
  show(model.get("position"));
  for (const kind of KINDS) kept.draw(kind);
  flag();
  for (const [what, then] of Object.entries(heard)) model.on(what, then);
  const observer = new ResizeObserver(() => { // a notebook draws its outputs before it shows them
    root.classList.toggle("es-narrow", root.clientWidth > 0 && root.clientWidth < NARROW);
    root.classList.toggle("es-roomy", pane.clientWidth >= ROOMY);
    list.measure();
    list.show(position);
  });
  observer.observe(root);
  observer.observe(list.box);
  return () => {
    if (resting !== null) save();
    play.pause();
    observer.disconnect();
    endKeys();
    for (const [what, then] of Object.entries(heard)) model.off(what, then);
  };
}

export default { render };
