// One ordinary migration, from the traces of its sides.

const DOWNTIME = [
  ["stop-us", "stop"],
  ["device-save-us", "save devices"],
  ["last-pages-us", "last pages"],
  ["package-transfer-us", "send package"],
  ["load-us", "load devices"],
  ["permit-us", "permit"],
  ["start-us", "start"],
];
const number = n => n.toLocaleString("en");
const big = n =>
  n >= 1e6 ? `${+(n / 1e6).toPrecision(3)} M` : n >= 1e4 ? `${+(n / 1e3).toPrecision(3)} k` : number(n);

function migrationView({ migrations }) {
  if (migrations.length === 0)
    return [
      el("p", { class: "eyebrow" }, "Ferry · migration"),
      el("h1", {}, "No migration was traced"),
      el("p", { class: "lead" }, "The process ran, and neither sent its guest nor took one."),
    ];
  const asked = Number(/^#migration-(\d+)$/.exec(location.hash)?.[1] || 1),
    at = Math.min(Math.max(asked, 1), migrations.length) - 1;
  const list =
    migrations.length > 1 &&
    el(
      "nav",
      { class: "walk", "aria-label": "Migrations" },
      migrations.map((one, n) =>
        el(
          "a",
          { href: `#migration-${n + 1}`, "aria-current": n === at ? "page" : null },
          `${n + 1}. ${headline(one)}`,
        ),
      ),
    );
  return [list, migration(migrations[at])];
}

const of = (one, side) => one.sides.find(seen => seen.side === side);
function headline(one) {
  const told = of(one, "source") || one.sides[0],
    ended = told.summary,
    vm = told.process.vm || "the guest";
  if (!ended) return `${vm}: ${told.status || "no status"} when the trace ends`;
  const stood = ended["x-ferry-downtime-us"];
  if (ended.status === "completed")
    return `${vm} moved in ${duration((ended["total-time"] ?? one.took_us / 1000) * 1000)}${stood ? ` and stood still for ${duration(stood)}` : ""}`;
  return `${vm} did not move: ${ended.status}`;
}

function migration(one) {
  const source = of(one, "source"),
    destination = of(one, "destination"),
    told = source || destination,
    ram = told.summary?.ram;
  const last = told.samples.at(-1),
    process = seen =>
      seen &&
      [seen.process.host && `process ${seen.process.pid} on ${seen.process.host}`, seen.file]
        .filter(Boolean)
        .join(", ");
  const { vm, memory, backing, cpus } = told.process,
    reason = told.summary?.["error-desc"] ?? told.error;
  document.title = `${headline(one)} · Ferry`;
  const faults = destination?.summary?.["x-ferry-postcopy"] ?? destination?.samples.at(-1)?.postcopy,
    stood = source?.summary?.["x-ferry-downtime-us"];
  return [
    el("p", { class: "eyebrow" }, "Ferry · migration"),
    el("h1", {}, headline(one)),
    reason && told.summary?.status !== "completed" && el("div", { class: "why" }, reason),
    el(
      "ul",
      { class: "numbers" },
      [
        stood && [duration(stood), "downtime"],
        [bytes(ram?.transferred ?? last?.transferred ?? 0), "on the links"],
        source && [
          number(source.rounds.filter(round => round.number !== null).length),
          source.rounds.filter(round => round.number !== null).length === 1 ? "round" : "rounds",
        ],
        faults?.waits && [number(faults.waits.count), "waits for a page"],
      ]
        .filter(Boolean)
        .map(([value, name]) => el("li", {}, el("b", {}, value), el("span", {}, name))),
    ),
    facts([
      ["began", new Date(one.began_us / 1000).toISOString()],
      ["guest", [vm, bytes(memory), backing, count(cpus, "vCPU")].join(", ")],
      ["source", process(source)],
      ["destination", process(destination)],
      ["address", source?.peer],
      ["handshake", told.summary?.["x-ferry-handshake"] ?? last?.handshake],
      ["clocks", one.skew_us !== 0 && `the destination's is ahead by ${duration(one.skew_us)}; that is taken off here`],
      [
        "trace",
        one.sides
          .filter(seen => seen.torn || seen.lost)
          .map(
            seen =>
              `${seen.file}: ${[seen.torn && "cut off in its last line", seen.lost && `${number(seen.lost)} entries lost`].filter(Boolean).join(", ")}`,
          )
          .join("; "),
      ],
    ]),
    source?.summary?.["x-ferry-downtime"] && [
      el("h2", {}, "Downtime"),
      strip(DOWNTIME.map(([field, name]) => [name, source.summary["x-ferry-downtime"][field]])),
    ],
    source?.rounds.length > 0 && rounds(source.rounds),
    postcopy(source, destination, faults),
    el("h2", {}, "What happened"),
    diagram(one.timeline),
  ];
}

function rounds(list) {
  const name = round => (round.number === null ? "last" : String(round.number)),
    rate = round => (round.took_us ? (round.bytes / round.took_us) * 1e6 : 0),
    mib = 1024 * 1024;
  // Only a guest that was slowed down has a column for it.
  const throttled = list.some(round => round.cpu_throttle),
    titles = ["round", "pages", "zero", "sent", "took", "bandwidth", "dirty after it"];
  if (throttled) titles.push("vCPUs throttled");
  const judged = list.filter(round => round.dirty_pages !== null && round.took_us),
    per = round => (round.dirty_pages / round.took_us) * 1e6;
  // One round says all in its line of the table.
  return [
    el("h2", {}, "Rounds"),
    list.length > 1 &&
      el(
        "div",
        { class: "charts" },
        chart(
          "Pages",
          "a round",
          bars(
            list.map(round => ({
              label: name(round),
              parts: [round.pages, round.zero_pages],
              title: `${name(round)}: ${number(round.pages)} pages, ${number(round.zero_pages)} zero`,
            })),
            big,
          ),
          key(["data", "zero, sent as bits"]),
        ),
        chart(
          "Bandwidth",
          "in a round",
          bars(
            list.map(round => ({
              label: name(round),
              parts: [rate(round) / mib],
              title: `${name(round)}: ${bytes(rate(round))}/s`,
            })),
            value => `${+value.toPrecision(3)} MiB/s`,
          ),
        ),
        judged.length > 0 &&
          chart(
            "Dirtied",
            "pages a second while the round was sent",
            bars(
              judged.map(round => ({
                label: name(round),
                parts: [per(round)],
                title: `${name(round)}: ${number(Math.round(per(round)))} pages/s`,
              })),
              big,
            ),
          ),
      ),
    el(
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
            titles.map((title, at) => el("th", { scope: "col", class: at ? "number" : "" }, title)),
          ),
        ),
        el(
          "tbody",
          {},
          list.map(round =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, round.number === null ? "last pages" : name(round)),
              [
                number(round.pages),
                number(round.zero_pages),
                bytes(round.bytes),
                duration(round.took_us),
                `${bytes(rate(round))}/s`,
                round.dirty_pages === null ? "–" : number(round.dirty_pages),
                throttled && (round.cpu_throttle ? `${round.cpu_throttle} %` : "–"),
              ]
                .filter(text => text !== false)
                .map(text => el("td", { class: "number" }, text)),
            ),
          ),
        ),
      ),
    ),
  ];
}

function postcopy(source, destination, faults) {
  const seen = [destination, source].find(seen => seen?.samples.some(sample => sample.postcopy));
  if (!seen) return null;
  const samples = seen.samples.filter(sample => sample.postcopy),
    end = seen.summary?.["x-ferry-postcopy"],
    points = field => samples.map(sample => [sample.at_us, sample.postcopy[field]]);
  const distribution = destination?.summary?.["postcopy-latency-dist"],
    waits = faults?.waits;
  const low = distribution?.findIndex(n => n > 0),
    high = distribution?.findLastIndex(n => n > 0);
  return [
    el("h2", {}, "Postcopy"),
    el(
      "p",
      { class: "quiet" },
      [
        end &&
          `${number(end["received-pages"])} pages came while the guest ran: ${bytes(end["urgent-bytes"])} asked for, ${bytes(end["background-bytes"])} in the background.`,
        waits &&
          waits.count > 0 &&
          ` Half of its ${count(waits.count, "wait")} took no longer than ${duration(waits["p50-us"])}, 99 of 100 no longer than ${duration(waits["p99-us"])}, the longest ${duration(waits["longest-us"])}.`,
      ]
        .filter(Boolean)
        .join(""),
    ),
    el(
      "div",
      { class: "charts" },
      samples.length > 1 &&
        chart(
          "Pages",
          `as the ${seen.side} saw them`,
          lines(
            [
              { points: points("missing-pages"), look: "s3" },
              { points: points("received-pages"), look: "s0", filled: true },
            ],
            big,
          ),
          el(
            "ul",
            { class: "legend" },
            [
              ["w0", "received"],
              ["w3", "missing"],
            ].map(([look, name]) => el("li", {}, el("span", { class: `swatch ${look}` }), name)),
          ),
        ),
      distribution &&
        low >= 0 &&
        chart(
          "Waits",
          "how many took how long",
          bars(
            distribution.slice(low, high + 1).map((n, at) => ({
              label: duration(2 ** (low + at)),
              parts: [n],
              title: `${duration(2 ** (low + at))} to ${duration(2 ** (low + at + 1))}: ${number(n)}`,
            })),
            big,
          ),
        ),
    ),
  ];
}
