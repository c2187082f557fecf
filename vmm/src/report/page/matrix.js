// The matrix: the verdict in numbers, filters, the grid, what is red.

const matrix = { cells: [], filter: { mode: "", handshake: "", cpus: "", place: "", verdict: "", text: "" }, back: null };
const PLACES = ["source", "destination", "link", "record", "disk"];
const PLACE_TITLE = { source: "On the source", destination: "On the destination", link: "On the link", record: "In the ownership record", disk: "On the disk" };
const address = cell => `#cell-${encodeURIComponent(cell.name)}`;
const variant = cell => `${cell.mode}, ${cell.handshake}, ${count(cell.cpus, "vCPU")}`;

function visible() {
  const { text, ...exact } = matrix.filter, words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return matrix.cells.filter(cell => Object.entries(exact).every(([key, value]) => !value || String(cell[key]) === value)
    && words.every(word => cell.haystack.includes(word)));
}

function overview(data) {
  const tally = verdict => data.cells.filter(cell => cell.verdict === verdict).length;
  const [green, red, skipped] = ["pass", "fail", "skip"].map(tally);
  const verdict = red ? `${count(red, "cell is", "cells are")} red` : data.cells.length === 0 ? "No cell was run" : green === 0 ? "Nothing was judged" : "Every cell that ran is green";
  const list = el("div", { id: "grid" }), counter = el("p", { class: "count", role: "status" });
  const refresh = () => {
    const cells = visible();
    counter.textContent = cells.length === matrix.cells.length ? `${count(cells.length, "cell")}; arrow keys walk the grid, Enter opens a cell` : `${cells.length.toLocaleString("en")} of ${count(matrix.cells.length, "cell")}`;
    list.replaceChildren(cells.length ? grid(cells, data.order) : el("p", { class: "quiet" }, "No cell fits these filters."));
  };
  const page = [
    el("p", { class: "eyebrow" }, "Ferry · fault matrix"), el("h1", {}, verdict),
    el("p", { class: "lead" }, "Every cell migrates a real guest, breaks one thing at one moment, and asks judges that do not trust Ferry what became of the guest."),
    el("ul", { class: "numbers" }, [["", data.cells.length, "cells"], ["pass", green, "green"], [red ? "fail" : "", red, "red"], ["", skipped, "skipped"]]
      .map(([look, number, name]) => el("li", { class: look }, el("b", {}, typeof number === "number" ? number.toLocaleString("en") : number), el("span", {}, name)))),
    facts([["made", data.made], ["took", duration(data.seconds * 1e6)], ["host", data.host], ["seed", String(data.seed)]]), data.command && command(data.command),
    red > 0 && [el("h2", {}, "What is red"), failures(data.cells.filter(cell => cell.verdict === "fail"))],
    el("h2", {}, "The grid"), filters(data.cells, refresh), counter, list,
    el("ul", { class: "legend" }, [["pass", "P O R", "green: precopy (P), postcopy (O), recovered postcopy (R)"], ["fail", "✕", "red"], ["skip", "–", "skipped"]]
      .map(([look, glyph, text]) => el("li", {}, el("span", { class: `square ${look}`, "aria-hidden": "true" }, glyph[0]), text))),
    el("h2", {}, "By mode and handshake"), crossTable(data.cells),
  ];
  document.title = `${verdict} · Ferry fault matrix`;
  refresh();
  return page;
}

const failures = cells => el("ul", { class: "failures" }, cells.map(cell => el("li", {}, badge(cell.verdict),
  el("a", { href: address(cell) }, `${cell.what}, ${cell.when}`), el("p", {}, `${variant(cell)}. ${cell.why || cell.ending}`))));

function filters(cells, refresh) {
  const choice = (key, title, values, name = value => value) => el("label", {}, title, el("select", { onchange: event => { matrix.filter[key] = event.target.value; refresh(); } },
    el("option", { value: "" }, "all"), values.map(value => el("option", { value, selected: matrix.filter[key] === String(value) }, name(value)))));
  const of = key => unique(cells.map(cell => cell[key]));
  return el("form", { class: "filters", role: "search", onsubmit: event => event.preventDefault() },
    choice("mode", "mode", of("mode")), choice("handshake", "handshake", of("handshake")), choice("cpus", "vCPUs", of("cpus").sort((a, b) => a - b)),
    choice("place", "place", PLACES.filter(place => of("place").includes(place))), choice("verdict", "verdict", ["pass", "fail", "skip"], verdict => WORD[verdict]),
    el("label", { class: "grow" }, "search", el("input", { type: "search", value: matrix.filter.text, placeholder: "name, step, sentence", oninput: event => { matrix.filter.text = event.target.value; refresh(); } })));
}

function grid(cells, order) {
  const columns = unique([...order, ...matrix.cells.map(cell => cell.when)]).filter(when => cells.some(cell => cell.when === when));
  const at = new Map();
  for (const cell of cells) {
    const key = JSON.stringify([cell.place, cell.what, cell.when]);
    if (!at.has(key)) at.set(key, []);
    at.get(key).push(cell);
  }
  const most = Math.max(...[...at.values()].map(list => list.length)), across = Math.ceil(Math.sqrt(most));
  const square = cell => el("a", { class: `square ${cell.verdict}`, href: address(cell), tabindex: "-1", "data-cell": cell.name, title: `${cell.what}, ${cell.when}: ${variant(cell)}: ${WORD[cell.verdict]}`,
    "aria-label": `${WORD[cell.verdict]}: ${cell.what}, ${cell.when}, ${variant(cell)}` }, cell.verdict === "pass" ? { precopy: "P", postcopy: "O", recovered: "R" }[cell.mode] : GLYPH[cell.verdict]);
  const row = (place, what) => el("tr", {}, el("th", { scope: "row" }, what), columns.map(when => {
    const list = at.get(JSON.stringify([place, what, when]));
    return el("td", {}, list && el("div", { class: "squares", style: `grid-template-columns: repeat(${Math.min(across, list.length)}, auto)` }, list.map(square)));
  }));
  const bodies = PLACES.filter(place => cells.some(cell => cell.place === place)).map(place => {
    const here = cells.filter(cell => cell.place === place), red = here.filter(cell => cell.verdict === "fail").length;
    return el("tbody", {}, el("tr", { class: "group" }, el("th", { colspan: columns.length + 1, scope: "rowgroup" }, el("span", {}, PLACE_TITLE[place], el("span", { class: "quiet small" }, `  ${count(here.length, "cell")}${red ? `, ${red} red` : ""}`)))),
      unique(here.map(cell => cell.what)).map(what => row(place, what)));
  });
  const table = el("table", { class: "grid" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "what \\ when"), columns.map(when => el("th", { scope: "col", title: when }, el("span", {}, when))))), bodies);
  table.addEventListener("keydown", walk);
  const first = table.querySelector(`[data-cell="${CSS.escape(matrix.back || "")}"]`) || table.querySelector(".square");
  first.tabIndex = 0;
  return el("div", { class: "grid-frame", role: "region", "aria-label": "The grid of cells" }, table);
}

// One stop for the Tab key; the arrows go to the nearest square in their direction.
function walk(event) {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], from = event.target.closest(".square");
  if (!way || !from) return;
  event.preventDefault();
  const centre = node => { const box = node.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; };
  const [x, y] = centre(from);
  let best = null, least = Infinity;
  for (const square of event.currentTarget.querySelectorAll(".square")) {
    const [right, down] = centre(square), along = (right - x) * way[0] + (down - y) * way[1];
    const aside = Math.abs((right - x) * way[1]) + Math.abs((down - y) * way[0]);
    if (square !== from && along > 1 && along + aside * 6 < least) { best = square; least = along + aside * 6; }
  }
  if (!best) return;
  from.tabIndex = -1;
  best.tabIndex = 0;
  best.focus();
}

function crossTable(cells) {
  const handshakes = unique(cells.map(cell => cell.handshake));
  return el("div", { class: "scroll" }, el("table", { class: "plain" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "mode"), handshakes.map(name => el("th", { scope: "col", class: "number" }, name)))),
    el("tbody", {}, unique(cells.map(cell => cell.mode)).map(mode => el("tr", {}, el("th", { scope: "row" }, mode), handshakes.map(handshake => {
      const here = cells.filter(cell => cell.mode === mode && cell.handshake === handshake && cell.verdict !== "skip"), green = here.filter(cell => cell.verdict === "pass").length;
      return el("td", { class: "number" }, here.length === 0 ? "–" : green === here.length ? `✓ ${green}` : `✕ ${green} of ${here.length}`);
    }))))));
}
