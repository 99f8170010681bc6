// The line of shell that shows a view again, and a button that copies it.

/** `name` begins its classes; `tell` is told what came of copying. */
function shellLine(name, tell) {
  const text = document.createTextNode(""), line = h("code", { class: `${name}-line` }, text);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text.data);
      tell("copied");
    } catch {
      line.ownerDocument.getSelection().selectAllChildren(line);
      tell("selected: Ctrl+C copies it");
    }
  }
  const title = "copy the line of shell that shows this again";
  return { box: h("div", { class: `${name}-again` }, button("Copy", { title, onclick: copy }, `${name}-button`), line), show: (words) => say(text, words) };
}
