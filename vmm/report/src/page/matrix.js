// The matrix: the verdict in numbers, filters, the grid, what is red.

const matrix = {
  cells: [],
  filter: { mode: "", handshake: "", cpus: "", place: "", verdict: "", text: "" },
  back: null,
};
const PLACES = ["source", "destination", "link", "record", "disk"];
const PLACE_TITLE = {
  source: "On the source",
  destination: "On the destination",
  link: "On the link",
  record: "In the ownership record",
  disk: "On the disk",
};
const address = cell => `#cell-${encodeURIComponent(cell.name)}`;
const variant = cell => `${cell.mode}, ${cell.handshake}, ${count(cell.cpus, "vCPU")}`;

function visible() {
  const { text, ...exact } = matrix.filter,
    words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return matrix.cells.filter(
    cell =>
      Object.entries(exact).every(([key, value]) => !value || String(cell[key]) === value) &&
      words.every(word => cell.haystack.includes(word)),
  );
}

function overview(data) {
  const tally = verdict => data.cells.filter(cell => cell.verdict === verdict).length;
  const [green, red, skipped] = ["pass", "fail", "skip"].map(tally);
  const verdict = red
    ? `${count(red, "cell is", "cells are")} red`
    : data.cells.length === 0
      ? "No cell was run"
      : green === 0
        ? "Nothing was judged"
        : "Every cell that ran is green";
  const list = el("div", { id: "grid" }),
    counter = el("p", { class: "count", role: "status" });
  const refresh = () => {
    const cells = visible();
    counter.textContent =
      cells.length === matrix.cells.length
        ? `${count(cells.length, "cell")}; arrow keys walk the grid, Enter opens a cell`
        : `${cells.length.toLocaleString("en")} of ${count(matrix.cells.length, "cell")}`;
    list.replaceChildren(
      cells.length ? grid(cells, data.order) : el("p", { class: "quiet" }, "No cell fits these filters."),
    );
  };
  const page = [
    el("p", { class: "eyebrow" }, "Ferry · fault matrix"),
    el("h1", {}, verdict),
    el(
      "p",
      { class: "lead" },
      "Every cell migrates a real guest, breaks one thing at one moment, and asks judges that do not trust Ferry what became of the guest.",
    ),
    el(
      "ul",
      { class: "numbers" },
      [
        ["", data.cells.length, "cells"],
        ["pass", green, "green"],
        [red ? "fail" : "", red, "red"],
        ["", skipped, "skipped"],
      ].map(([look, number, name]) =>
        el(
          "li",
          { class: look },
          el("b", {}, typeof number === "number" ? number.toLocaleString("en") : number),
          el("span", {}, name),
        ),
      ),
    ),
    facts([
      ["made", data.made],
      ["took", duration(data.seconds * 1e6)],
      ["host", data.host],
      ["seed", String(data.seed)],
    ]),
    data.command && command(data.command),
    red > 0 && [el("h2", {}, "What is red"), failures(data.cells.filter(cell => cell.verdict === "fail"))],
    el(
      "section",
      { class: "grid-part" },
      el("h2", {}, "The grid"),
      filters(data.cells, refresh),
      counter,
      list,
      el(
        "ul",
        { class: "legend" },
        [
          ["pass", "P O R", "green: precopy (P), postcopy (O), recovered postcopy (R)"],
          ["fail", "✕", "red"],
          ["skip", "–", "skipped"],
        ].map(([look, glyph, text]) =>
          el("li", {}, el("span", { class: `square ${look}`, "aria-hidden": "true" }, glyph[0]), text),
        ),
      ),
    ),
    el("h2", {}, "By mode and handshake"),
    crossTable(data.cells),
  ];
  document.title = `${verdict} · Ferry fault matrix`;
  refresh();
  return page;
}

const failures = cells =>
  el(
    "ul",
    { class: "failures" },
    cells.map(cell =>
      el(
        "li",
        {},
        badge(cell.verdict),
        el("a", { href: address(cell) }, `${cell.what}, ${cell.when}`),
        el("p", {}, `${variant(cell)}. ${cell.why || cell.ending}`),
      ),
    ),
  );

function filters(cells, refresh) {
  const choice = (key, title, values, name = value => value) =>
    el(
      "label",
      {},
      title,
      el(
        "select",
        {
          onchange: event => {
            matrix.filter[key] = event.target.value;
            refresh();
          },
        },
        el("option", { value: "" }, "all"),
        values.map(value => el("option", { value, selected: matrix.filter[key] === String(value) }, name(value))),
      ),
    );
  const of = key => unique(cells.map(cell => cell[key]));
  return el(
    "form",
    { class: "filters", role: "search", onsubmit: event => event.preventDefault() },
    choice("mode", "mode", of("mode")),
    choice("handshake", "handshake", of("handshake")),
    choice(
      "cpus",
      "vCPUs",
      of("cpus").sort((a, b) => a - b),
    ),
    choice(
      "place",
      "place",
      PLACES.filter(place => of("place").includes(place)),
    ),
    choice("verdict", "verdict", ["pass", "fail", "skip"], verdict => WORD[verdict]),
    el(
      "label",
      { class: "grow" },
      "search",
      el("input", {
        type: "search",
        value: matrix.filter.text,
        placeholder: "name, step, sentence",
        oninput: event => {
          matrix.filter.text = event.target.value;
          refresh();
        },
      }),
    ),
  );
}

function crossTable(cells) {
  const handshakes = unique(cells.map(cell => cell.handshake));
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      { class: "plain" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, "mode"),
          handshakes.map(name => el("th", { scope: "col", class: "number" }, name)),
        ),
      ),
      el(
        "tbody",
        {},
        unique(cells.map(cell => cell.mode)).map(mode =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, mode),
            handshakes.map(handshake => {
              const here = cells.filter(
                  cell => cell.mode === mode && cell.handshake === handshake && cell.verdict !== "skip",
                ),
                green = here.filter(cell => cell.verdict === "pass").length;
              return el(
                "td",
                { class: "number" },
                here.length === 0 ? "–" : green === here.length ? `✓ ${green}` : `✕ ${green} of ${here.length}`,
              );
            }),
          ),
        ),
      ),
    ),
  );
}
