// The grid: a row for each fault, a column for each step of the protocol, a square for each cell.

function grid(cells, order) {
  const columns = unique([...order, ...matrix.cells.map(cell => cell.when)]).filter(when =>
    cells.some(cell => cell.when === when),
  );
  const at = new Map();
  for (const cell of cells) {
    const key = JSON.stringify([cell.place, cell.what, cell.when]);
    if (!at.has(key)) at.set(key, []);
    at.get(key).push(cell);
  }
  const most = Math.max(...[...at.values()].map(list => list.length)),
    across = Math.ceil(Math.sqrt(most));
  // What is left of the width of a page beside the names, in the units of print.
  const paper = Math.min(Math.max((880 / columns.length - 4) / across - 1, 4), 13).toFixed(1);
  const square = cell =>
    el(
      "a",
      {
        class: `square ${cell.verdict}`,
        href: address(cell),
        tabindex: "-1",
        "data-cell": cell.name,
        title: `${cell.what}, ${cell.when}: ${variant(cell)}: ${WORD[cell.verdict]}`,
        "aria-label": `${WORD[cell.verdict]}: ${cell.what}, ${cell.when}, ${variant(cell)}`,
      },
      cell.verdict === "pass" ? { precopy: "P", postcopy: "O", recovered: "R" }[cell.mode] : GLYPH[cell.verdict],
    );
  const row = (place, what) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, what),
      columns.map(when => {
        const list = at.get(JSON.stringify([place, what, when]));
        return el(
          "td",
          {},
          list &&
            el(
              "div",
              { class: "squares", style: `grid-template-columns: repeat(${Math.min(across, list.length)}, auto)` },
              list.map(square),
            ),
        );
      }),
    );
  const bodies = PLACES.filter(place => cells.some(cell => cell.place === place)).map(place => {
    const here = cells.filter(cell => cell.place === place),
      red = here.filter(cell => cell.verdict === "fail").length;
    return el(
      "tbody",
      {},
      el(
        "tr",
        { class: "group" },
        el(
          "th",
          { colspan: columns.length + 1, scope: "rowgroup" },
          el(
            "span",
            {},
            PLACE_TITLE[place],
            el("span", { class: "quiet small" }, `  ${count(here.length, "cell")}${red ? `, ${red} red` : ""}`),
          ),
        ),
      ),
      unique(here.map(cell => cell.what)).map(what => row(place, what)),
    );
  });
  const table = el(
    "table",
    { class: "grid", style: `--on-paper: ${paper}px` },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col" }, "what \\ when"),
        columns.map(when => el("th", { scope: "col", title: when }, el("span", {}, when))),
      ),
    ),
    bodies,
  );
  table.addEventListener("keydown", walk);
  const first = table.querySelector(`[data-cell="${CSS.escape(matrix.back || "")}"]`) || table.querySelector(".square");
  first.tabIndex = 0;
  return el("div", { class: "grid-frame", role: "region", "aria-label": "The grid of cells" }, table);
}

// One stop for the Tab key; the arrows go to the nearest square in their direction.
function walk(event) {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key],
    from = event.target.closest(".square");
  if (!way || !from) return;
  event.preventDefault();
  const centre = node => {
    const box = node.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const [x, y] = centre(from);
  let best = null,
    least = Infinity;
  for (const square of event.currentTarget.querySelectorAll(".square")) {
    const [right, down] = centre(square),
      along = (right - x) * way[0] + (down - y) * way[1];
    const aside = Math.abs((right - x) * way[1]) + Math.abs((down - y) * way[0]);
    if (square !== from && along > 1 && along + aside * 6 < least) {
      best = square;
      least = along + aside * 6;
    }
  }
  if (!best) return;
  from.tabIndex = -1;
  best.tabIndex = 0;
  best.focus();
}
