// The keyboard: all that can be done is done by it too, and the notebook around gets no key that is meant for us.

const HELP = [
  [["←", "→"], "one step"], [["PgUp", "PgDn"], "ten"], [["Home", "End"], "first, last"], [["↑", "↓"], "in the list"], [["Space"], "play"],
  [["B"], "break here"], [["R", "⇧R"], "run to a breakpoint, back"], [["M"], "bookmark"], [["N", "⇧N"], "next one, back"], [["C"], "compare from here"],
  [["/"], "search"], [["Enter"], "on a value: what set it"], [["L", "⇧L"], "its last change, next"],
];
const help = () => h("div", { class: "es-help" }, HELP.map(([keys, text]) => h("span", {}, keys.flatMap((key) => [h("kbd", {}, key), " "]), text)));

const WRITES = "input:not([type=range]), select, textarea";
const PRESSES = "button, summary, [role=button]";

/** What a key is called here: letters with Shift+ where it is held, signs whatever it takes to type them, nothing where Shift selects. */
function nameOf({ key, shiftKey }) {
  if (/^[a-z]$/i.test(key)) return `${shiftKey ? "Shift+" : ""}${key.toLowerCase()}`;
  return shiftKey && key.length > 1 ? "" : key;
}

/** Calls `keys` by their names, `listKeys` outside of the pane alone, where those scroll; and `escape`, which tells whether there was something to leave. Returns how to end it. */
function keyboard(root, pane, { keys, listKeys, escape }) {
  // Plain keys are ours, not the notebook's ("b" makes a cell), and Ctrl+S still saves. JupyterLab takes what bubbles up to the document, Notebook 7 what comes
  // down from it: it asks the element that has the focus for this attribute, and no other, where a binding is on `:focus`.
  const plain = (pressed) => !(pressed.ctrlKey || pressed.altKey || pressed.metaKey || pressed.key === "Escape");
  const claim = (pressed) => {
    const target = pressed.composedPath()[0];
    if (root.contains(target)) target.toggleAttribute("data-lm-suppress-shortcuts", plain(pressed));
  };

  function press(pressed) {
    const { target } = pressed;
    if (pressed.key === "Escape" && escape()) { pressed.stopPropagation(); pressed.preventDefault(); }
    if (!plain(pressed)) return;
    pressed.stopPropagation();
    if (target.matches(WRITES)) return;
    if ((pressed.key === "Enter" || pressed.key === " ") && target.matches(PRESSES)) {
      if (target.getAttribute("role") === "button") { pressed.preventDefault(); target.click(); }
      return;
    }
    const name = nameOf(pressed), action = keys[name] ?? (pane.contains(target) ? undefined : listKeys[name]);
    if (!action) return;
    pressed.preventDefault();
    action();
  }

  window.addEventListener("keydown", claim, { capture: true }); // before anyone on the document
  root.addEventListener("keydown", press);
  return () => window.removeEventListener("keydown", claim, { capture: true });
}
