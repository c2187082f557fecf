// Making elements, and saying numbers. All text reaches the page as text, never as markup.

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity))
    if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}
const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const GLYPH = { pass: "✓", fail: "✕", skip: "–", none: "–" };
const WORD = { pass: "green", fail: "red", skip: "skipped", none: "no verdict" };
const badge = verdict =>
  el("span", { class: `badge ${verdict}` }, el("span", { "aria-hidden": "true" }, GLYPH[verdict]), WORD[verdict]);

const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many || one + "s"}`;
function duration(us) {
  const size = Math.abs(us);
  if (size < 1000) return `${Math.round(us)} µs`;
  if (size < 10_000) return `${(us / 1000).toFixed(2)} ms`;
  if (size < 1_000_000) return `${+(us / 1000).toFixed(size < 100_000 ? 1 : 0)} ms`;
  return size < 120_000_000
    ? `${(us / 1e6).toFixed(2)} s`
    : `${Math.floor(us / 60e6)} min ${Math.round((us % 60e6) / 1e6)} s`;
}
function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) {
    n /= 1024;
    at++;
  }
  return `${at === 0 || n >= 100 ? Math.round(n).toLocaleString("en") : n.toFixed(1)} ${units[at]}`;
}
const unique = values => [...new Set(values)];
const facts = pairs =>
  el(
    "dl",
    { class: "facts" },
    pairs.filter(pair => pair && pair[1]).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );

// A command and a button that copies it, also where the clipboard is closed to scripts.
function command(text) {
  const code = el("code", {}, text);
  const button = el("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    let copied = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => {
      button.textContent = "Copy";
    }, 1600);
  });
  return el("div", { class: "command" }, code, button);
}
