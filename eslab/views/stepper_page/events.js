// The list of events: only the rows that can be seen are there.

const ROW = 30; // pixels of a row
const NEXT = 3 * ROW; // what lies so little out of sight is scrolled to; what lies farther comes into the middle

/** `go` is asked to step, `toggle` to set or lift a breakpoint; `flagsOf` tells the [sign, word] that the reader gave a position. */
function eventList(book, { go, toggle, flagsOf }) {
  const { first, last } = book.header;
  const spacer = h("div", { class: "es-spacer", role: "presentation" });
  const box = h("div", { class: "es-list", role: "listbox", tabindex: 0, "aria-label": "Events" }, spacer);
  const id = `es-${Math.random().toString(36).slice(2)}`;
  const clock = clockOf(book);
  const rows = new Map(); // position → its row, of those that are drawn
  let some = null; // the positions that are listed, in order; null: all
  let current = first, chosen = first, scrolled = 0, height = 600; // known without asking: to ask forces a layout

  const length = () => (some ? some.length : last - first + 1);
  const positionAt = (row) => (some ? some[row] : first + row);
  const rowOf = (position) => (some ? Math.max(countUpTo(some, position) - 1, 0) : position - first); // or of the nearest one before

  /** An empty row; `fill` makes it that of a position. Rows that went out of sight are filled again: to lay out new ones is most of what a jump costs. */
  function blank() {
    const texts = { number: document.createTextNode(""), type: document.createTextNode(""), time: document.createTextNode(""), changes: document.createTextNode("") };
    const gutter = h("span", { class: "es-gutter" }), type = h("bdi", { class: "es-type" }, texts.type), marks = h("span", { class: "es-marks" }), changes = h("span", { class: "es-changes" }, texts.changes);
    const box = h("div", { class: "es-item", role: "option" }, gutter, h("span", { class: "es-number-of" }, texts.number), type, marks, h("time", {}, texts.time), changes);
    return { box, texts, gutter, type, marks, changes, said: { flags: "", marks: "" } };
  }

  function fill(row, position, at) {
    const { box, texts, gutter, type, marks, changes, said } = row;
    const head = position > first ? book.head(position) : null, flags = flagsOf(position);
    const untyped = head ? whyUntyped(head) : first ? `the state after step ${grouped(first)}` : "before the first event";
    box.style.transform = `translateY(${at * ROW}px)`;
    for (const [name, value] of [["id", `${id}-${position}`], ["data-position", position], ["aria-selected", String(position === current)], ["aria-setsize", length()], ["aria-posinset", at + 1]]) {
      box.setAttribute(name, value);
    }
    box.title = head ? visible(`${head.type ?? ""} ${head.recorded ?? ""}`) : "";
    say(texts.number, grouped(position));
    say(texts.type, untyped ?? visible(head.type));
    type.classList.toggle("es-untyped", untyped !== null);
    say(texts.time, head ? clock(head) : "");
    say(texts.changes, head ? (head.changes ? `±${head.changes}` : "·") : "");
    changes.title = head ? count(head.changes, "changed path") : "";
    if (said.flags !== flags.join()) gutter.replaceChildren(...flags.map(([sign, word]) => h("span", { role: "img", "aria-label": word }, sign)));
    if (said.marks !== (head?.marks ?? []).join()) marks.replaceChildren(...(head?.marks ?? []).map(badge));
    row.said = { flags: flags.join(), marks: (head?.marks ?? []).join() };
  }

  function draw() {
    const from = Math.max(0, Math.floor(scrolled / ROW) - 2), to = Math.min(length() - 1, from + Math.ceil(height / ROW) + 4);
    const begin = positionAt(from), end = positionAt(to), free = [];
    for (const [position, row] of rows) if (!(position >= begin && position <= end)) { rows.delete(position); free.push(row); }
    let stays = Infinity; // the first position that is there already: what stays is in one piece, and in order
    for (const position of rows.keys()) stays = Math.min(stays, position);
    const next = rows.get(stays)?.box ?? null, moving = rows.size > 0;
    for (let at = from; at <= to; at++) {
      const position = positionAt(at);
      if (rows.has(position)) continue;
      const reused = free.shift(), row = reused ?? blank();
      fill(row, position, at);
      rows.set(position, row);
      if (moving || !reused) spacer.insertBefore(row.box, position < stays ? next : null);
    }
    for (const { box } of free) box.remove();
    rows.get(chosen)?.box.setAttribute("aria-selected", "false");
    rows.get(current)?.box.setAttribute("aria-selected", "true");
    chosen = current;
    if (rows.has(current)) box.setAttribute("aria-activedescendant", `${id}-${current}`);
    else box.removeAttribute("aria-activedescendant");
  }

  function show(position) {
    current = position;
    const top = rowOf(position) * ROW, above = scrolled - top, below = top + ROW - scrolled - height;
    if (above > 0 || below > 0) {
      const wanted = above > NEXT ? top - height / 2 : above > 0 ? top : below > NEXT ? top - height / 2 : scrolled + below; // step by step few rows are made, not half of them at times
      box.scrollTop = scrolled = Math.max(0, Math.min(wanted, length() * ROW - height));
    }
    draw();
  }

  function redraw() {
    for (const [position, row] of rows) fill(row, position, rowOf(position));
  }

  /** List these positions, or all. */
  function list(positions) {
    some = positions;
    spacer.style.height = `${length() * ROW}px`;
    spacer.replaceChildren();
    rows.clear();
    show(current);
  }

  /** The position of the next row (way 1) or the one before (-1); the current one at the ends. */
  function beside(way) {
    if (!length()) return current;
    const row = rowOf(current), hidden = Math.sign(current - positionAt(row)); // where the current one is not listed: on which side of its neighbour it would be
    return positionAt(Math.min(Math.max(row + (hidden === -way ? 0 : way), 0), length() - 1));
  }

  const measure = () => { scrolled = box.scrollTop; height = box.clientHeight || 600; draw(); };
  box.addEventListener("scroll", measure, { passive: true });
  box.addEventListener("click", (clicked) => {
    const row = clicked.target.closest(".es-item"), position = Number(row?.dataset.position);
    if (!row) return;
    if (clicked.target.closest(".es-gutter") && position > first) toggle(position);
    else go(position);
  });
  spacer.style.height = `${length() * ROW}px`;
  return { box, show, list, redraw, beside, measure };
}
