// One step: its event and the state after it. What stays from step to step stays in the page too; only texts that differ are changed, for to lay out is what takes time.

const CLOCKS = { create: "the producer's clock", append: "the broker's clock" };
const FACTS = [ // name, tag, text (null: no such line), what is said beside it
  ["recorded", "time", (head) => head.recorded ?? "— (no timestamp)", (head) => (CLOCKS[head.clock] ? ` by ${CLOCKS[head.clock]}` : "")],
  ["happened", "time", (head) => head.happened ?? "— (no time in the payload)", lateness],
  ...["id", "source"].map((name) => [name, "bdi", (head) => head[name]]),
  ["record", "bdi", (head) => head.at],
  ...["correlation", "causation", "trace"].map((name) => [name, "bdi", (head) => head[name]]),
];

function lateness({ late }) {
  if (late === null) return "";
  return late === 0 ? " at the moment it was recorded" : ` ${duration(late)} ${late > 0 ? "before" : "after"} it was recorded`;
}

function factList() {
  const box = h("dl", { class: "es-facts" });
  const lines = FACTS.map(([name, tag, text, note]) => { // those with a note take the whole width, the others half of it where there is room
    const value = document.createTextNode(""), beside = document.createTextNode("");
    return { text, note, value, beside, parts: [h("dt", {}, name), h("dd", { class: note ? "es-wide" : "" }, h(tag, {}, value), note ? h("span", { class: "es-note" }, beside) : "")] };
  });
  let shown = [];
  function show(head) {
    const told = lines.filter(({ text }) => text(head) !== null);
    for (const { text, note, value, beside } of told) {
      say(value, visible(text(head)));
      if (note) say(beside, note(head));
    }
    if (told.length !== shown.length || told.some((one, at) => one !== shown[at])) box.replaceChildren(...told.flatMap((one) => one.parts));
    shown = told;
  }
  return { box, show };
}

/** The event of a step; `tree` draws its data. */
function eventView(book, tree) {
  const { first } = book.header;
  const facts = factList();
  const title = h("h3"), odd = h("div"), data = h("div", { class: "es-data" });
  const box = h("div", { class: "es-event", role: "group", "aria-label": "Event" }, title);

  function show(position) {
    if (position === first) {
      title.textContent = first ? `After step ${grouped(first)}` : "Before the first event";
      box.replaceChildren(title, h("p", { class: "es-none" }, first ? "earlier steps are not shown here" : "the initial state"));
      return;
    }
    const head = book.head(position), payload = book.data(position);
    title.replaceChildren(typeOf(head), ...(head.version === null ? [] : [h("span", { class: "es-note" }, " version ", bdi(head.version))]));
    odd.replaceChildren(...problems(head));
    facts.show(head);
    data.replaceChildren(...(payload === "null" ? [h("p", { class: "es-none" }, "no data")] : [h("h4", {}, "data"), tree(payload)]));
    if (data.parentNode !== box) box.replaceChildren(title, odd, facts.box, data);
  }

  return { box, show };
}

function problems(head) {
  return head.marks.map((mark) => h("p", { class: "es-problem", "data-mark": mark },
    badge(mark), " ", h("span", {}, MARKS[mark]?.[1] ?? ""), head.problem && mark === head.marks.at(-1) ? [": ", h("strong", {}, bdi(head.problem))] : ""));
}

/** The state after a step and what differs from the one it is compared with. `tree` draws values, `pin` is asked to compare with this step, or with the one before each again. */
function stateView(book, { tree, pin }) {
  const { first } = book.header;
  let all = false, drawn = () => {};
  const title = document.createTextNode(""), note = document.createTextNode("");
  const unchanged = button("Show unchanged", { onclick: () => { all = !whole(); if (!all) tree.fold(STATE); drawn(); } });
  const compare = button("", { onclick: pin });
  const differing = h("div"), values = h("div");
  const box = h("div", { class: "es-state", role: "group", "aria-label": "State" },
    h("div", { class: "es-heading" }, h("h3", {}, title, h("span", { class: "es-note" }, note)), h("span", { class: "es-buttons" }, compare, unchanged)), differing, values);
  const whole = () => all || tree.unfolded(STATE);

  function show(position, base) {
    drawn = () => show(position, base);
    const now = book.state(position), some = position > first || base !== null;
    const marks = (base !== null ? differences(book.state(base), now) : some ? marksOf(book.patch(position), book.state(position - 1)) : null) ?? { kids: new Map() };
    say(title, `State after step ${grouped(position)}`);
    say(note, base === null ? "" : `, compared with step ${grouped(base)}`);
    compare.textContent = base === null ? "Compare from here" : "Compare with the step before";
    unchanged.setAttribute("aria-pressed", String(whole()));
    differing.replaceChildren(...(some ? [changedPaths(marks, base === null ? "this step changed nothing" : "the two are the same")] : []));
    values.replaceChildren(tree.draw(now, marks, STATE, all || !some));
  }

  return { box, show };
}

/** The paths of marks, as a sentence. */
function changedPaths(marks, unchanged) {
  const paths = [...markedPaths(marks)];
  if (!paths.length) return h("p", { class: "es-none" }, unchanged);
  const some = paths.slice(0, 8).map((path) => h("code", {}, bdi(formatPath(path).slice(0, CUT) || "(all)")));
  return h("p", { class: "es-paths" }, `${count(paths.length, "changed path")}: `, some.flatMap((one, at) => (at ? [", ", one] : [one])), paths.length > 8 ? ` and ${grouped(paths.length - 8)} more` : "");
}
