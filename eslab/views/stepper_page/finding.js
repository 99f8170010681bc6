// Which events are listed: by a text in them, by type, by mark, or by what the reader put there.

const TYPING_MS = 120; // a pause in typing

/** `list` is told the positions that are left, or null for all; `kept` tells those of a kind that the reader keeps. */
function finder(book, { list, kept }) {
  const { first, last, types, marks } = book.header;
  const totals = types.map(() => 0);
  for (const type of book.header.type_of) totals[type]++;
  const choices = [
    ["all events", null],
    ...types.map((type, number) => [`${type ?? NO_TYPE} (${grouped(totals[number])})`, (at) => book.type(at) === type]),
    ...Object.entries(marks).map(([mark, steps]) => { const of = new Set(steps); return [`${signOf(mark)} ${mark} (${grouped(steps.length)})`, (at) => of.has(at)]; }),
    ["★ bookmarks", (at) => kept("bookmarks").includes(at)],
    ["● breakpoints at a step", (at) => kept("breakpoints").some(([kind, what]) => kind === "step" && what === at)],
  ];
  let timer = null, wanted = "";

  const text = h("input", { type: "search", class: "es-input", "aria-label": "Search the events", placeholder: "search  /", spellcheck: "false" });
  const choice = h("select", { class: "es-input", "aria-label": "Which events" }, choices.map(([name], number) => h("option", { value: number }, visible(name))));
  const found = h("div", { class: "es-found", "aria-live": "polite" });

  function find() {
    timer = null;
    wanted = text.value;
    const fits = choices[Number(choice.value)][1];
    let positions = wanted ? book.search(wanted) : null;
    if (fits) positions = (positions ?? Array.from({ length: last - first }, (_, at) => first + 1 + at)).filter(fits);
    found.textContent = positions ? `${grouped(positions.length)} of ${count(last - first, "event")}` : "";
    list(positions);
  }

  text.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, TYPING_MS); });
  choice.addEventListener("change", find);

  /** What is being typed is looked for at once; whether something was to be found. */
  function now() {
    if (timer !== null || wanted !== text.value) { clearTimeout(timer); find(); }
  }

  function clear() {
    if (!text.value && choice.value === "0") return false;
    text.value = "";
    choice.value = "0";
    find();
    return true;
  }

  return { box: h("div", { class: "es-finder", role: "group", "aria-label": "Events to list" }, text, choice, found), text, now, clear };
}
