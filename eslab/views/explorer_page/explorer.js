// eslab's explorer: filters and a page of records; all that is asked is answered by Python. Stands behind text.js, elements.js, keys.js and shell.js of stepper_page/.
//
// What tests may rely on. Roles and names: group "Explorer: <name>"; comboboxes "topic", "aggregate", "event type"; textboxes "id", "from", "until"; searchbox "search"; checkbox
// "newest first"; buttons "Show", "Clear", "Previous page", "Next page", "Copy"; grid "Records" with rows; two of status (what is shown, in words; what came of the last thing that was asked).
// Classes: .eslab-explorer, .ee-row (data-at, aria-current where it is open below), .ee-belongs, .ee-told, .ee-line, .ee-said, .ee-noted, mark.

const EMPTY = { topic: "", aggregate: "", aggregate_id: "", event_type: "", start: "", stop: "", search: "", newest: false };
const COLUMNS = ["recorded", "at", "event", "belongs to", "id", "data or problem"];
const EXPLORER_HELP = [[["↑", "↓"], "a row"], [["Enter"], "open it in the stepper"], [["→", "←"], "what else it belongs to"], [["PgDn", "PgUp"], "next page, previous"], [["/"], "search"]];

const PATIENCE_S = 20; // a search looks through a million records in about a second: what takes so long is for another cell, or for nobody

let explorers = 0;

/** A text in which what was searched for is marked. */
function marked(text, search) {
  if (!search) return [visible(text)];
  return text.split(search).flatMap((piece, at) => (at ? [h("mark", {}, visible(search)), visible(piece)] : [visible(piece)]));
}

function render({ model, el }) {
  const { name, topics, aggregates, types } = model.get("_choices"), listId = `eslab-types-${(explorers += 1)}`;
  let told = { rows: [] }, focusing = false, waiting = null, lost = false; // lost: what was asked last may never be answered

  // --- the parts

  const choice = (all, values) => h("select", { class: "ee-input" }, h("option", { value: "" }, all), values.map((value) => h("option", { value }, visible(value))));
  const text = (attributes) => h("input", { class: "ee-input", type: "text", spellcheck: "false", autocomplete: "off", ...attributes });
  const inputs = {
    topic: choice("all", topics), aggregate: choice("any", aggregates), aggregate_id: text(), event_type: text({ list: listId, placeholder: "any" }),
    start: text({ placeholder: "10:31" }), stop: text({ placeholder: "exclusive" }),
    search: text({ type: "search", placeholder: "text in ids, keys, types, data, metadata" }), newest: h("input", { type: "checkbox" }),
  };
  const label = (words, one) => h("label", { class: `ee-field ee-${one}` }, h("span", {}, words), inputs[one]);
  const form = h("form", { class: "ee-form" },
    label("topic", "topic"), label("event type", "event_type"), label("aggregate", "aggregate"), label("id", "aggregate_id"), label("from", "start"), label("until", "stop"),
    label("search", "search"), label("newest first", "newest"),
    h("div", { class: "ee-buttons" }, h("button", { type: "submit", class: "ee-button" }, "Show"), button("Clear", { onclick: () => { fill(EMPTY); show(); } }, "ee-button")),
    h("datalist", { id: listId }, types.map((value) => h("option", { value }))));
  const said = h("span", { class: "ee-said", role: "status" }), noted = h("span", { class: "ee-noted", role: "status" });
  const before = button("◀", { "aria-label": "Previous page", title: "Previous page", onclick: () => turn(-1) }, "ee-button");
  const next = button("▶", { "aria-label": "Next page", title: "Next page", onclick: () => turn(1) }, "ee-button");
  const body = h("tbody");
  const grid = h("table", { role: "grid", "aria-label": "Records" }, h("thead", {}, h("tr", {}, COLUMNS.map((column) => h("th", { scope: "col" }, column)))), body);
  const again = shellLine("ee", (words) => tell(words));
  const root = h("div", { class: "eslab-explorer", role: "group", tabindex: -1, "aria-label": visible(`Explorer: ${name}`) },
    form, h("div", { class: "ee-bar" }, before, next, said, noted), h("div", { class: "ee-table" }, grid),
    again.box,
    h("div", { class: "ee-help" }, EXPLORER_HELP.map(([keys, words]) => h("span", {}, keys.flatMap((key) => [h("kbd", {}, key), " "]), words))));

  // --- what is asked for

  const filters = () => Object.fromEntries(Object.entries(inputs).map(([one, input]) => [one, input.type === "checkbox" ? input.checked : input.value.trim()]));

  function fill(values) {
    for (const [one, input] of Object.entries(inputs)) {
      if (input.type === "checkbox") input.checked = Boolean(values[one]);
      else input.value = values[one] ?? "";
    }
  }

  function send(trait, value) {
    model.set(trait, { ...value, number: (model.get(trait).number ?? 0) + 1 });
    try { model.save_changes(); } catch { /* the kernel is gone: that is seen where its answer is waited for */ }
    wait();
  }

  function ask(wanted, trail) {
    tell("looking…");
    root.setAttribute("aria-busy", "true");
    send("_asked", { filters: wanted, trail });
  }

  const tell = (words, problem = false) => {
    noted.textContent = visible(words);
    noted.classList.toggle("ee-problem", problem);
  };

  /** Look each second whether an answer can still come: say so if there is no kernel any more, or if it takes long. */
  function wait(seconds = 0) {
    clearTimeout(waiting);
    const manager = model.widget_manager; // JupyterLab's has the kernel, and marks what a restart cut off; one that died and came again is known by its silence alone
    const dead = manager && "kernel" in manager && (manager.kernel ?? { status: "dead" }).status === "dead";
    if (dead || el.closest(".jupyter-widgets-disconnected")) {
      answered();
      lost = true;
      tell("the kernel is gone, and what is asked for here Python answers: start it, and run the cell again", true);
      return;
    }
    if (seconds === PATIENCE_S) {
      lost = true;
      tell(`no answer for ${seconds} seconds: the kernel is busy, or was started anew; then run the cell again`, true);
    }
    waiting = setTimeout(() => wait(seconds + 1), 1000);
  }

  function answered() {
    clearTimeout(waiting);
    lost = false;
    root.removeAttribute("aria-busy");
  }

  function show() {
    const wanted = filters(), last = model.get("_asked");
    if (lost || JSON.stringify(wanted) !== JSON.stringify({ ...EMPTY, ...last.filters }) || last.trail.length) ask(wanted, []);
  }

  function turn(way) {
    const { filters: wanted, trail } = model.get("_asked");
    if (model.get("_told").problem) return; // there is no page to turn from
    focusing = body.contains(root.getRootNode().activeElement);
    if (way > 0 && told.next) ask(wanted, [...trail, told.next]);
    else if (way < 0 && trail.length) ask(wanted, trail.slice(0, -1));
  }

  function open(at, which = 0) {
    const row = told.rows[at], [aggregate, id] = row.belongs[which] ?? [];
    if (aggregate === undefined) { tell(`${row.at} belongs to no aggregate: there is no history to step through`); return; }
    tell(`opening ${aggregate} ${id}…`);
    send("_open", { aggregate, id, at: row.at });
  }

  // --- what came of it

  function draw() {
    const answer = model.get("_told");
    answered();
    tell(answer.problem ?? "", Boolean(answer.problem));
    if (answer.problem) return; // the last page stays
    told = answer;
    said.textContent = visible(told.said);
    again.show(told.line);
    before.disabled = !model.get("_asked").trail.length;
    next.disabled = !told.next;
    body.replaceChildren(...told.rows.map(drawRow));
    body.parentElement.parentElement.scrollTop = 0;
    if (body.firstChild) body.firstChild.tabIndex = 0;
    if (focusing) (body.firstChild ?? root).focus();
    focusing = false;
    opened();
  }

  const cell = (text, name) => h("td", { class: name, title: visible(text) }, h("bdi", {}, marked(text, told.search))); // cut where there is no room

  function drawRow(row, at) {
    const belongs = row.belongs.map(([aggregate, id], which) =>
      h("button", { type: "button", tabindex: -1, class: "ee-belongs", "data-which": which, title: "open its history here in the stepper" }, h("span", {}, visible(aggregate)), " ", h("bdi", {}, marked(id, told.search))));
    return h("tr", { class: "ee-row", tabindex: -1, "data-row": at, "data-at": row.at },
      h("td", { class: "ee-time" }, row.recorded), h("td", { class: "ee-at" }, bdi(row.at)), cell(row.event, `ee-${row.kind}`),
      h("td", {}, belongs, row.more ? h("span", { class: "ee-more" }, `and ${grouped(row.more)} more`) : ""), cell(row.id, "ee-id"), cell(row.told, "ee-told"));
  }

  function opened() {
    const { at, what, problem } = model.get("_opened");
    for (const row of body.children) row.toggleAttribute("aria-current", false);
    if (problem) { tell(problem, true); return; }
    const here = [...body.children].find((row) => row.dataset.at === at);
    if (!here) return;
    here.setAttribute("aria-current", "true");
    return what;
  }

  // --- the keyboard and the pointer

  const focused = () => root.getRootNode().activeElement;
  const rowOf = (target) => target?.closest?.(".ee-row");

  function move(to) {
    if (!to) return;
    for (const one of body.children) one.tabIndex = one === to ? 0 : -1;
    to.focus({ preventScroll: true });
    to.scrollIntoView({ block: "nearest" });
  }

  function aside(way) {
    const row = rowOf(focused()) ?? body.firstChild, stops = row ? [row, ...row.querySelectorAll("button")] : [];
    stops[stops.indexOf(focused()) + way]?.focus();
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); show(); });
  form.addEventListener("change", show);
  body.addEventListener("click", ({ target }) => {
    const row = rowOf(target), which = target.closest("button")?.dataset.which;
    if (!row || !(root.ownerDocument.getSelection()?.isCollapsed ?? true)) return; // not where text is being selected
    move(row);
    open(Number(row.dataset.row), Number(which ?? 0));
  });
  const endKeys = keyboard(root, form, {
    keys: { "/": () => inputs.search.focus() },
    listKeys: {
      ArrowDown: () => move(rowOf(focused())?.nextSibling ?? (rowOf(focused()) ? null : body.firstChild)), ArrowUp: () => move(rowOf(focused())?.previousSibling),
      Home: () => move(body.firstChild), End: () => move(body.lastChild), ArrowRight: () => aside(1), ArrowLeft: () => aside(-1),
      PageDown: () => turn(1), PageUp: () => turn(-1), Enter: () => { const row = rowOf(focused()); if (row) open(Number(row.dataset.row)); },
    },
    escape: () => false,
  });

  // --- the life of the view

  const heard = {
    "change:_told": draw,
    "change:_opened": () => { answered(); const what = opened(); if (what) tell(`${what} is open in the stepper below`); },
  };
  el.append(root);
  fill({ ...EMPTY, ...model.get("_asked").filters });
  draw();
  for (const [what, then] of Object.entries(heard)) model.on(what, then);
  return () => {
    clearTimeout(waiting);
    endKeys();
    for (const [what, then] of Object.entries(heard)) model.off(what, then);
  };
}

export default { render };
