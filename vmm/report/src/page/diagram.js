// The sequence diagram: lanes for the source, the link and the destination, one row for each thing that happened.

const ROW = 24,
  LINE = 15,
  SLICE = 260,
  GUTTER = 66;
const FATES = [
  [/lost|drop|cut|reset|clos|swallow|never/i, "lost"],
  [/held|hold|stall|delay|slow|dup|twice|corrupt|flip|trunc|reorder|garbl/i, "held"],
];
const TONES = [
  [/failed|cancel|refused|lost|stranded/i, "bad"],
  [/uncertain|device|setup.*postcopy|postcopy-setup|paused|stop/i, "stop"],
  [/postcopy/i, "post"],
  [/completed|running/i, "good"],
  [/active/i, "live"],
];
const match = (table, text, otherwise) => (table.find(([pattern]) => pattern.test(text)) || [null, otherwise])[1];
const isQuiet = entry =>
  !entry.fate &&
  ((/^Heartbeat\b/.test(entry.text) && entry.kind === "message") || /^((Start|Stop)Timer\b|Timer\(Heartbeat)/.test(entry.text));

const ruler = document.createElement("canvas").getContext("2d");
const FAMILY = getComputedStyle(document.body).fontFamily;
function wrap(text, width, size, most) {
  ruler.font = `600 ${size}px ${FAMILY}`;
  const lines = [""];
  for (const piece of text.split(/(?<=[\s/_:,;=()-])/)) {
    let word = piece;
    if (lines.at(-1) && ruler.measureText(lines.at(-1) + word).width > width) lines.push("");
    while (ruler.measureText(word).width > width && word.length > 1) {
      let fit = word.length;
      while (fit > 1 && ruler.measureText(word.slice(0, fit)).width > width) fit--;
      lines[lines.length - 1] = word.slice(0, fit);
      word = word.slice(fit);
      lines.push("");
      if (lines.length > most) break;
    }
    lines[lines.length - 1] += word;
    if (lines.length > most) return [...lines.slice(0, most - 1), lines[most - 1].trimEnd() + " …"];
  }
  return lines.map(line => line.trim()).filter((line, at) => line || at === 0);
}

const clock = us =>
  us === 0
    ? "0"
    : Math.abs(us) < 100_000
      ? duration(us)
      : Math.abs(us) < 1e6
        ? `${(us / 1000).toFixed(1)} ms`
        : `${(us / 1e6).toFixed(3)} s`;
// Runs of the same thing are one row that counts.
function rows(entries, shown) {
  const out = [];
  for (const entry of [...entries].sort((a, b) => a.at_us - b.at_us)) {
    if ((!shown.quiet && isQuiet(entry)) || (!shown.steps && entry.kind === "step" && !isQuiet(entry))) continue;
    const last = out.at(-1);
    const same = last && ["kind", "lane", "to", "text", "fate", "link"].every(key => last.entry[key] === entry[key]);
    if (same) {
      last.times++;
      last.until = entry.at_us;
    } else out.push({ entry, times: 1, until: entry.at_us });
  }
  return out;
}

// It is cut between rows into slices, one below the other, so that paper can break it there.
function sequence(entries, width, shown) {
  const x = { source: GUTTER + 24, destination: width - 26 };
  x.link = (x.source + x.destination) / 2;
  const list = rows(entries, shown),
    bands = { source: [], destination: [] },
    slices = [{ from: 0, under: [], over: heads(x, width) }];
  const gap = Math.max(150_000, list.length > 1 ? (list.at(-1).entry.at_us - list[0].entry.at_us) / 6 : 0);
  let y = 46,
    before = null;
  for (const row of list) {
    if (y - slices.at(-1).from > SLICE) slices.push({ from: y - 5, under: [], over: [] });
    const { under, over } = slices.at(-1);
    if (before !== null && row.entry.at_us - before > gap) {
      const look = { class: "quiet halo", x: x.link, y: y + 12, "text-anchor": "middle", "font-size": 11 };
      over.push(svg("text", look, `⋯ ${duration(row.entry.at_us - before)} later`));
      y += 26;
    }
    before = row.until;
    y += draw(row, y, x, width, { under, over, bands });
  }
  const bottom = y + 14,
    end = at => (at + 1 < slices.length ? slices[at + 1].from : bottom);
  return slices.map(({ from, under, over }, at) => {
    const height = end(at) - from;
    const view = { viewBox: `0 ${from} ${width} ${height}`, width, height };
    return svg("svg", view, lifelines(bands, x, Math.max(from, 34), end(at), bottom), under, over);
  });
}

const heads = (x, width) =>
  ["source", "link", "destination"].map(lane => {
    const last = lane === "destination";
    const look = { class: lane === "link" ? "head quiet" : "head", y: 24, "text-anchor": last ? "end" : "middle" };
    return svg("text", { ...look, x: last ? width - 4 : x[lane] }, lane);
  });

// A status colours its side's lifeline until the next.
const lifelines = (bands, x, from, to, bottom) => [
  Object.keys(x).map(lane => svg("line", { class: `life ${lane}`, x1: x[lane], x2: x[lane], y1: from, y2: to })),
  Object.entries(bands).flatMap(([lane, list]) =>
    list.map(([begins, tone], at) => {
      const ends = at + 1 < list.length ? list[at + 1][0] : bottom;
      const place = { x: x[lane] - 4, y: begins, width: 8, height: Math.max(ends - begins, 1), rx: 2 };
      return begins < to && ends > from && svg("rect", { class: `tone-${tone}`, "stroke-width": 0.6, ...place });
    }),
  ),
];

function draw({ entry, times, until }, y, x, width, layers) {
  const { under, over, bands } = layers,
    text = entry.text + (times > 1 ? `  ×${times}` : "");
  const when = times > 1 && until > entry.at_us ? `${clock(entry.at_us)} to ${clock(until)}` : clock(entry.at_us);
  over.push(svg("text", { class: "time", x: GUTTER - 8, y: y + 12, "text-anchor": "end" }, clock(entry.at_us)));
  const label = `${when}: ${entry.lane}${entry.to ? " to " + entry.to : ""}: ${text}${entry.fate ? `, ${entry.fate}` : ""}`;
  const group = svg("g", { class: `entry ${entry.kind}` }, svg("title", {}, label));
  over.push(group);
  if (entry.lane === "harness" || entry.lane === "guest") return band(group, entry, text, y, width);
  if ((entry.kind === "message" || entry.kind === "pages") && entry.to && entry.to !== entry.lane)
    return arrow(group, entry, text, y, x);
  if (entry.kind === "status" && bands[entry.lane]) return status(group, entry, text, y, x, width, bands);
  return beside(group, entry, text, y, x, under);
}

// What the harness does, or the guest says, concerns no lane: it goes across.
function band(group, entry, text, y, width) {
  const left = GUTTER + 2,
    room = width - left - 8,
    look = entry.kind === "fault" ? "fault" : entry.lane === "guest" ? "guest" : "note";
  const lines = wrap(text, room - 82, 12, 9),
    height = lines.length * LINE + 9;
  group.append(
    svg("rect", { class: `band ${look}`, x: left, y: y - 4, width: room + 4, height, rx: 5 }),
    svg("text", { class: "tag", x: left + 9, y: y + 12 }, (look === "fault" ? "⚡ " : "") + entry.lane),
    ...lines.map((line, at) =>
      svg("text", { class: look === "fault" ? "fault" : "", x: left + 80, y: y + 12 + at * LINE }, line),
    ),
  );
  return height + 6;
}

function status(group, entry, text, y, x, width, bands) {
  const tone = match(TONES, entry.text, "plain"),
    [line] = wrap(text, 150, 11.5, 1);
  ruler.font = `600 11.5px ${FAMILY}`;
  const wide = ruler.measureText(line).width + 18,
    centre = x[entry.lane];
  const left = Math.min(Math.max(centre - wide / 2, GUTTER), width - wide - 2);
  bands[entry.lane].push([y + 8, tone]);
  group.append(
    svg("rect", { class: `status tone-${tone}`, x: left, y: y - 3, width: wide, height: 21, rx: 10.5 }),
    svg("text", { class: "on-status", x: left + wide / 2, y: y + 12, "text-anchor": "middle" }, line),
  );
  return ROW + 4;
}

function arrow(group, entry, text, y, x) {
  const fate = entry.fate ? match(FATES, entry.fate, "") : "",
    cut = fate === "lost" && entry.lane !== "link" && entry.to !== "link";
  const from = x[entry.lane] ?? x.link,
    end = cut ? x.link : (x[entry.to] ?? x.link),
    way = Math.sign(end - from) || 1;
  const look = fate || (entry.kind === "pages" ? "pages" : ""),
    extra = [entry.link !== "control" && entry.link, entry.fate].filter(Boolean).join(" · ");
  const room = Math.abs((x[entry.to] ?? x.link) - from) - 24,
    lines = wrap(extra ? `${text}  (${extra})` : text, room, 12, 3);
  const middle = (from + (x[entry.to] ?? x.link)) / 2,
    at = y + lines.length * LINE + 3;
  lines.forEach((line, n) =>
    group.append(
      svg("text", { class: `halo ${fate}`, x: middle, y: y + 11 + n * LINE, "text-anchor": "middle" }, line),
    ),
  );
  const start = from + way * 5,
    stop = end - way * (cut ? 0 : 6);
  group.append(svg("line", { class: `arrow ${look}`, x1: start, x2: stop - way * 5, y1: at, y2: at }));
  if (cut) group.append(svg("path", { class: "mark lost", d: `M${end - 5} ${at - 5}l10 10m0 -10l-10 10` }));
  else group.append(svg("path", { class: `tip ${look}`, d: `M${stop} ${at}l${-way * 8} -4.5v9z` }));
  if (fate === "held")
    group.append(
      svg("rect", { class: "ground", x: x.link - 7, y: at - 6, width: 14, height: 12 }),
      svg("path", {
        class: "mark held",
        d: `M${x.link - 5} ${at - 6}h3.5v12h-3.5zM${x.link + 1.5} ${at - 6}h3.5v12h-3.5z`,
      }),
    );
  return lines.length * LINE + 15;
}

// Text beside a lifeline, towards the middle.
function beside(group, entry, text, y, x, under) {
  const right = entry.lane === "destination",
    at = x[entry.lane] ?? x.link,
    look = entry.kind;
  const room = right ? at - x.source - 30 : x.destination - at - 30,
    lines = wrap((look === "fault" ? "⚡ " : "") + text, room, 11.5, 6);
  under.push(svg("circle", { class: `dot ${look}`, cx: at, cy: y + 8, r: look === "step" ? 2.6 : 4 }));
  lines.forEach((line, n) =>
    group.append(
      svg(
        "text",
        {
          class: `halo ${look}`,
          x: right ? at - 12 : at + 12,
          y: y + 12 + n * LINE,
          "text-anchor": right ? "end" : "start",
        },
        line,
      ),
    ),
  );
  return lines.length * LINE + 7;
}

// The diagram with its switches; drawn anew when the width changes.
function diagram(entries) {
  const frame = el("div", { class: "diagram", role: "img", "aria-label": "Sequence diagram" }),
    shown = { steps: true, quiet: false };
  const paint = () =>
    frame.replaceChildren(...sequence(entries, Math.min(Math.max(frame.clientWidth - 6, 300), 1000), shown));
  const toggle = (key, text) =>
    el(
      "label",
      {},
      el("input", {
        type: "checkbox",
        checked: shown[key],
        onchange: event => {
          shown[key] = event.target.checked;
          paint();
        },
      }),
      text,
    );
  // It is as wide as its place, once it has one.
  queueMicrotask(paint);
  const resized = () => (frame.isConnected ? paint() : removeEventListener("resize", resized));
  addEventListener("resize", resized);
  return el(
    "div",
    {},
    el("div", { class: "toggles" }, toggle("steps", "steps of the protocol"), toggle("quiet", "heartbeats and timers")),
    frame,
  );
}
