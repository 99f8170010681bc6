// Strangers' text as it may be shown, and how numbers and times are written.

// Controls, half surrogate pairs, and whatever is invisible or turns the text around: shown by their code.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\p{Cs}|[\u{e0000}-\u{e007f}]/gu;
const code = (char) => [...Array(char.length).keys()].map((at) => `\\u${char.charCodeAt(at).toString(16).padStart(4, "0")}`).join("");

/** The text with everything visible that would not be. */
export const visible = (text) => text.replace(HIDDEN, code);

/** A leaf as JSON writes it, its first `longest` characters. */
export function leafText(raw, longest = Infinity) {
  if (raw[0] !== '"') return visible(raw.slice(0, longest));
  const whole = raw.length - 2 <= longest;
  const inside = whole ? raw.slice(1, -1) : raw.slice(1, longest + 1).replace(/(?<=(?:^|[^\\])(?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?$/, "");
  const text = inside.includes("\\") ? JSON.stringify(JSON.parse(`"${inside}"`)) : `"${inside}"`;
  return visible(whole ? text : `${text.slice(0, -1)}…`);
}

/** One line of JSON for a tree, cut at about `longest` characters. */
export function preview(node, longest) {
  let text = "";
  const add = (inner) => {
    if (text.length > longest) return;
    if (!isTree(inner)) { text += leafText(inner, longest); return; }
    const map = inner instanceof Map;
    text += map ? "{" : "[";
    let first = true;
    for (const item of inner) {
      if (text.length > longest) break;
      text += first ? "" : ", ";
      first = false;
      if (map) text += `${visible(JSON.stringify(item[0].slice(0, longest)))}: `;
      add(map ? item[1] : item);
    }
    text += map ? "}" : "]";
  };
  add(node);
  return text.length > longest ? `${text.slice(0, longest)}…` : text;
}

const grouped = new Intl.NumberFormat("en").format;
const count = (number, word) => `${grouped(number)} ${word}${number === 1 ? "" : "s"}`;

/** A length of time in its two largest units. */
function duration(ms) {
  const size = Math.abs(ms);
  const units = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1000, "s"]];
  const at = units.findIndex(([one]) => size >= one);
  if (at < 0) return `${Math.round(size)} ms`;
  const [one, name] = units[at], rest = units[at + 1];
  if (!rest) return `${(size / 1000).toFixed(size < 10_000 ? 1 : 0)} s`;
  return `${Math.floor(size / one)} ${name} ${Math.floor((size % one) / rest[0])} ${rest[1]}`;
}
