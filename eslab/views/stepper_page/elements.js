// What the views are made of. Values come from strangers: they reach the page as text nodes alone.

const NO_TYPE = "(no type)";
const MARKS = {
  duplicate: ["❐", "an event id seen before in this history; folded again, as delivered"],
  undecodable: ["?", "the record could not be decoded; the state stays as it was"],
  unhandled: ["○", "the projection has no handler for this type; the state stays as it was"],
  tombstone: ["†", "a null value: the state is the initial one again"],
  failed: ["✕", "the handler raised; the state stays as it was, and nothing after it is folded"],
  skipped: ["»", "not folded, because an earlier step failed"],
  "no JSON": ["!", "the handler left in the state what no state may hold"],
};
const COMMON = new Set(["unhandled", "skipped"]); // marks that most steps of a history may have, and no news then
const signOf = (mark) => MARKS[mark]?.[0] ?? "!";

/** An element: handlers and attributes, then children; text is always text. */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const name in attributes) {
    const value = attributes[name];
    if (name === "class") element.className = value;
    else if (typeof value === "function") element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child !== "" && child !== null && child !== undefined) element.append(child);
  return element;
}

const bdi = (text, name) => h("bdi", name ? { class: name } : null, visible(text));
const badge = (mark) => h("span", { class: "es-mark", "data-mark": mark, title: MARKS[mark]?.[1] }, `${signOf(mark)} ${mark}`);
const button = (text, attributes, name = "es-button") => h("button", { type: "button", class: name, ...attributes }, text);
const removal = (what, onclick) => button("×", { "aria-label": visible(`Remove ${what}`), title: "remove", onclick }, "es-remove");

/** Why an event has no type; null if it has one. */
function whyUntyped({ type, marks }) {
  if (type !== null) return null;
  return marks.includes("undecodable") ? "(undecodable)" : "(tombstone)";
}

/** An event's type, or why it has none. */
function typeOf(head, name = "") {
  const untyped = whyUntyped(head);
  return untyped === null ? bdi(head.type, name) : h("em", { class: name }, untyped);
}

/** Change a text node where it differs: to lay out is what takes time. */
const say = (node, text) => { if (node.data !== text) node.data = text; };

/** When an event was recorded, without what every step has in common: the zone, and the day if it is the same all along. */
function clockOf(book) {
  const { first, last } = book.header;
  const day = (position) => book.head(position).recorded?.slice(0, 10);
  const oneDay = last > first && day(first + 1) === day(last);
  return (head) => head.recorded?.split(" ").slice(oneDay ? 1 : 0, 2).join(" ") ?? "no time";
}
