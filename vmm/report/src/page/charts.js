// Small charts. Each has a caption that says what it shows, and a title on every mark that says its numbers.

const CHART = { width: 310, height: 180, left: 56, right: 8, top: 10, bottom: 24 };

// A round number at or above `n`, for the top of an axis.
function ceiling(n) {
  const unit = 10 ** Math.floor(Math.log10(n || 1));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map(step => step * unit).find(step => step >= n) || unit;
}

function frame(top, format, ...marks) {
  const { width, height, left, right, bottom } = CHART,
    y = share => height - bottom - share * (height - bottom - CHART.top);
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img" },
    [0, 0.5, 1].map(share => [
      svg("line", {
        class: "axis",
        x1: left,
        x2: width - right,
        y1: y(share),
        y2: y(share),
        "stroke-dasharray": share ? "2 4" : null,
      }),
      svg("text", { class: "time", x: left - 6, y: y(share) + 4, "text-anchor": "end" }, format(top * share)),
    ]),
    marks,
  );
}

const chart = (title, about, ...content) =>
  el("figure", {}, el("figcaption", {}, el("b", {}, title), about ? `  ${about}` : ""), content);
const key = names =>
  el(
    "ul",
    { class: "legend" },
    names.map((name, at) => name && el("li", {}, el("span", { class: `swatch w${at}` }), name)),
  );

// Stacked bars: `bars` is a list of { label, parts, title }.
function bars(items, format) {
  const { width, height, left, right, top, bottom } = CHART,
    room = (width - left - right) / items.length;
  const most = ceiling(Math.max(...items.map(item => item.parts.reduce((sum, part) => sum + part, 0)))),
    tall = height - top - bottom;
  const step = Math.ceil(
    items.length /
      Math.max(1, Math.floor((width - left - right) / (10 + 6 * Math.max(...items.map(item => item.label.length))))),
  );
  return frame(
    most,
    format,
    items.map((item, at) => {
      let y = height - bottom;
      const wide = Math.min(room * 0.72, 46),
        x = left + room * (at + 0.5) - wide / 2;
      return svg(
        "g",
        {},
        svg("title", {}, item.title),
        item.parts.map((part, n) => {
          const size = (part / most) * tall;
          y -= size;
          return part > 0 && svg("rect", { class: `c${n}`, x, y, width: wide, height: Math.max(size, 1) });
        }),
        at % step === 0 &&
          svg("text", { class: "time", x: x + wide / 2, y: height - 8, "text-anchor": "middle" }, item.label),
      );
    }),
  );
}

// Lines over time: each of `lines` is { points: [[us, value]…], look }.
function lines(list, format) {
  const all = list.flatMap(line => line.points),
    { width, height, left, right, top, bottom } = CHART;
  const from = Math.min(...all.map(([at]) => at)),
    to = Math.max(from + 1, ...all.map(([at]) => at)),
    most = ceiling(Math.max(1, ...all.map(([, value]) => value)));
  const place = ([at, value]) => [
    left + ((at - from) / (to - from)) * (width - left - right),
    height - bottom - (value / most) * (height - top - bottom),
  ];
  return frame(
    most,
    format,
    list.map(({ points, look, filled }) => {
      const path = points
          .map(place)
          .map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`)
          .join(""),
        ends = [points[0], points.at(-1)].map(place);
      return [
        filled &&
          svg("path", {
            class: `soft ${look.replace("s", "c")}`,
            d: `${path}L${ends[1][0]} ${height - bottom}L${ends[0][0]} ${height - bottom}Z`,
          }),
        svg("path", { class: `line ${look}`, d: path }),
      ];
    }),
    svg("text", { class: "time", x: left, y: height - 6 }, duration(from)),
    svg("text", { class: "time", x: width - right, y: height - 6, "text-anchor": "end" }, duration(to)),
  );
}

// One bar cut into its parts, in their order, with what each is.
function strip(parts) {
  const total = parts.reduce((sum, [, value]) => sum + value, 0) || 1;
  let x = 0;
  return [
    svg(
      "svg",
      {
        class: "strip",
        viewBox: "0 0 1000 34",
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": "Parts of the downtime",
      },
      parts.map(([name, value], at) => {
        const wide = (value / total) * 1000,
          here = x;
        x += wide;
        return svg(
          "rect",
          { class: `c${at}`, x: here, y: 0, width: Math.max(wide - 2, 0), height: 34 },
          svg("title", {}, `${name}: ${duration(value)}`),
        );
      }),
    ),
    el(
      "ul",
      { class: "parts" },
      parts.map(([name, value], at) =>
        el("li", {}, el("span", { class: `swatch w${at}` }), name, el("b", {}, duration(value))),
      ),
    ),
  ];
}
