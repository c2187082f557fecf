// One cell, opened: what was broken, what happened, who judged it how.

function cellView(cell, list) {
  const at = list.indexOf(cell),
    near = (step, text) =>
      list[at + step] && el("a", { href: address(list[at + step]), rel: step < 0 ? "prev" : "next" }, text);
  document.title = `${cell.name} · Ferry fault matrix`;
  return [
    el(
      "nav",
      { class: "walk", "aria-label": "Cells" },
      el("a", { href: "#" }, "← all cells"),
      el("span", { class: "end" }, near(-1, "previous"), near(1, "next")),
    ),
    el("p", { class: "eyebrow" }, cell.name),
    el("h1", { tabindex: "-1" }, `${cell.what}, ${cell.when}`),
    badge(cell.verdict),
    el(
      "ul",
      { class: "chips" },
      [
        ["mode", cell.mode],
        ["handshake", cell.handshake],
        ["vCPUs", cell.cpus],
        ["place", cell.place],
        ["seed", cell.seed],
        ["took", duration(cell.millis * 1000)],
      ].map(([name, value]) => el("li", {}, el("b", {}, name), String(value))),
    ),
    cell.why && el("div", { class: `why ${cell.verdict}` }, cell.why),
    el(
      "div",
      { class: "two" },
      el("section", {}, el("h2", {}, "What was injected"), el("p", {}, cell.injected)),
      el(
        "section",
        {},
        el("h2", {}, "How it ended"),
        el("p", {}, cell.ending),
        typeof cell.resume_ms === "number" &&
          el("p", { class: "quiet" }, `The guest ran again after ${duration(cell.resume_ms * 1000)}.`),
      ),
    ),
    cell.oracles.length > 0 && [
      el("h2", {}, "What the oracles say"),
      el(
        "div",
        { class: "scroll" },
        el(
          "table",
          { class: "plain" },
          el(
            "tbody",
            {},
            cell.oracles.map(oracle =>
              el(
                "tr",
                {},
                el("th", { scope: "row" }, oracle.name),
                el("td", {}, badge(oracle.verdict)),
                el("td", {}, oracle.says),
              ),
            ),
          ),
        ),
      ),
    ],
    cell.timeline.length > 0 && [el("h2", {}, "What happened"), diagram(cell.timeline)],
    cell.logs.length > 0 && [
      el("h2", {}, "Logs"),
      cell.logs.map(log =>
        el(
          "details",
          {},
          el("summary", {}, log.name, el("span", { class: "quiet" }, count(log.text.split("\n").length, "line"))),
          el("pre", {}, log.text),
        ),
      ),
    ],
    cell.rerun && [el("h2", {}, "Run it again"), command(cell.rerun)],
  ];
}
