//! Draws a chart as SVG: titled, with axes, units, grid and legend, legible on light and on dark
//! pages.
//!
//! Colours are in a style sheet that follows the reader's colour scheme; lines differ in dashes
//! and marks as well, so that they can be told apart without colours.

use std::fmt::Write;

const WIDTH: f64 = 768.0;
/// A panel's share of the height, with its axes.
const PANEL: f64 = 300.0;
/// Title and legend.
const TOP: f64 = 84.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 32.0;
/// Below each panel: its axis.
const AXIS: f64 = 56.0;
/// Above the panel's frame: its own title.
const CAPTION: f64 = 26.0;
const STYLE: &str = "\
svg{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;background:var(--page);\
--page:#fff;--ink:#1f2328;--soft:#59636e;--grid:#d8dee4;--c0:#0b62c4;--c1:#b8470b;--c2:#6a7b00;--c3:#7a3fb0}\
@media(prefers-color-scheme:dark){svg{--page:#0d1117;--ink:#e6edf3;--soft:#9aa4af;--grid:#30363d;\
--c0:#6cb6ff;--c1:#ff9e64;--c2:#c5d34a;--c3:#d2a8ff}}\
text{fill:var(--ink)}.soft{fill:var(--soft);font-size:12px}.title{font-size:17px;font-weight:600}\
.grid{stroke:var(--grid);stroke-width:1}.frame{fill:none;stroke:var(--soft);stroke-width:1}.page{fill:var(--page)}\
.line{fill:none;stroke-width:2.2;stroke-linejoin:round}\
.s0{stroke:var(--c0)}.s1{stroke:var(--c1);stroke-dasharray:8 4}.s2{stroke:var(--c2);stroke-dasharray:3 3}\
.s3{stroke:var(--c3);stroke-dasharray:10 3 2 3}.m0{fill:var(--c0)}.m1{fill:var(--c1)}.m2{fill:var(--c2)}.m3{fill:var(--c3)}";

/// A chart: panels one below the other that share the legend.
#[derive(Debug)]
pub(crate) struct Chart {
    /// What it shows.
    pub title: String,
    /// Of what, in a smaller line.
    pub subtitle: String,
    /// One below the other.
    pub panels: Vec<Panel>,
}

/// A plot with axes.
#[derive(Debug)]
pub(crate) struct Panel {
    /// Above it.
    pub caption: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// At most four.
    pub lines: Vec<Line>,
}

/// An axis with its unit.
#[derive(Debug)]
pub(crate) struct Axis {
    /// Beside it, with the unit.
    pub label: String,
    /// How values become positions.
    pub scale: Scale,
}

/// How values become positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From 0.
    Linear,
    /// By powers of ten; values must be above 0.
    Logarithmic,
}

/// The values of one contender.
#[derive(Debug)]
pub(crate) struct Line {
    /// In the legend. Lines of the same name in different panels must have the same place in them.
    pub name: String,
    /// By rising x.
    pub points: Vec<(f64, f64)>,
    /// Whether a value holds until the next one, and has no mark of its own.
    pub steps: bool,
}

impl Chart {
    /// The file's text.
    pub(crate) fn render(&self) -> String {
        let height = TOP + PANEL * self.panels.len() as f64;
        let title = escape(&self.title);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n"
        );
        let _ = writeln!(svg, "<text class=\"title\" x=\"{LEFT}\" y=\"26\">{title}</text>");
        let _ = writeln!(svg, "<text class=\"soft\" x=\"{LEFT}\" y=\"46\">{}</text>", escape(&self.subtitle));
        self.legend(&mut svg);
        for (index, panel) in self.panels.iter().enumerate() {
            panel.render(&mut svg, TOP + PANEL * index as f64);
        }
        svg + "</svg>\n"
    }

    fn legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for (index, line) in self.panels.first().into_iter().flat_map(|panel| &panel.lines).enumerate() {
            let end = x + 34.0;
            let _ = writeln!(svg, "<path class=\"line s{index}\" d=\"M{x} 66H{end}\"/>");
            if !line.steps {
                mark(svg, index, x + 17.0, 66.0);
            }
            let _ = writeln!(svg, "<text x=\"{}\" y=\"70\">{}</text>", end + 8.0, escape(&line.name));
            x = end + 28.0 + 7.5 * line.name.chars().count() as f64;
        }
    }
}

impl Panel {
    fn render(&self, svg: &mut String, top: f64) {
        let frame = Frame {
            x: Range::of(self.x.scale, self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.0))),
            y: Range::of(self.y.scale, self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.1))),
            top: top + CAPTION,
            bottom: top + PANEL - AXIS,
        };
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", top + CAPTION - 9.0, escape(&self.caption));
        self.axes(svg, &frame);
        for (index, line) in self.lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()) {
            let _ = writeln!(svg, "<path class=\"line s{index}\" d=\"{}\"/>", line.path(&frame));
            for (x, y) in line.points.iter().filter(|_| !line.steps) {
                mark(svg, index, frame.x_at(*x), frame.y_at(*y));
            }
        }
    }

    fn axes(&self, svg: &mut String, frame: &Frame) {
        let (right, middle) = (WIDTH - RIGHT, f64::midpoint(frame.top, frame.bottom));
        for tick in frame.x.ticks() {
            let x = frame.x_at(tick);
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {:.1}V{:.1}\"/>", frame.top, frame.bottom);
            let y = frame.bottom + 18.0;
            let _ = writeln!(
                svg,
                "<text class=\"soft\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
                number(tick)
            );
        }
        for tick in frame.y.ticks() {
            let y = frame.y_at(tick);
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
            let (x, y) = (LEFT - 8.0, y + 4.0);
            let _ = writeln!(
                svg,
                "<text class=\"soft\" x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
                number(tick)
            );
        }
        let (width, height) = (right - LEFT, frame.bottom - frame.top);
        let _ = writeln!(
            svg,
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{}\" width=\"{width}\" height=\"{height}\"/>",
            frame.top
        );
        let (x, y) = (f64::midpoint(LEFT, right), frame.bottom + 40.0);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escape(&self.x.label));
        let _ = writeln!(
            svg,
            "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(&self.y.label)
        );
    }
}

impl Line {
    fn path(&self, frame: &Frame) -> String {
        let mut path = String::new();
        for (index, (x, y)) in self.points.iter().enumerate() {
            let (x, y) = (frame.x_at(*x), frame.y_at(*y));
            let _ = match (index, self.steps) {
                (0, _) => write!(path, "M{x:.1} {y:.1}"),
                (_, true) => write!(path, "H{x:.1}V{y:.1}"),
                (_, false) => write!(path, "L{x:.1} {y:.1}"),
            };
        }
        path
    }
}

struct Frame {
    x: Range,
    y: Range,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn x_at(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - RIGHT - LEFT)
    }

    fn y_at(&self, value: f64) -> f64 {
        self.bottom - self.y.share(value) * (self.bottom - self.top)
    }
}

/// What an axis spans: round numbers, or whole powers of ten.
#[derive(Debug)]
struct Range {
    scale: Scale,
    from: f64,
    to: f64,
    step: f64,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| scale == Scale::Linear || *value > 0.0) {
            (least, most) = (least.min(value), most.max(value));
        }
        match scale {
            Scale::Linear => {
                let step = round_step(if most > 0.0 { most } else { 1.0 } / 5.0);
                Range { scale, from: 0.0, to: ((most / step).ceil() * step).max(step), step }
            }
            Scale::Logarithmic => {
                let least = if least.is_finite() { least } else { 1.0 };
                let (from, to) = (least.log10().floor(), most.max(least).log10().ceil());
                Range { scale, from, to: to.max(from + 1.0), step: 1.0 }
            }
        }
    }

    /// How far along the axis a value lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let value = if self.scale == Scale::Logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        let count = ((self.to - self.from) / self.step).round() as usize;
        let at = |index: usize| self.from + self.step * index as f64;
        let value = |at: f64| if self.scale == Scale::Logarithmic { 10_f64.powf(at) } else { at };
        (0..=count).map(|index| value(at(index))).collect()
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= least).unwrap_or(least)
}

/// As short as it goes.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A mark of its own for each line: circle, square, diamond, triangle.
fn mark(svg: &mut String, index: usize, x: f64, y: f64) {
    let _ = match index {
        0 => writeln!(svg, "<circle class=\"m0\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        1 => writeln!(svg, "<path class=\"m1\" d=\"M{:.1} {:.1}h8v8h-8z\"/>", x - 4.0, y - 4.0),
        2 => writeln!(svg, "<path class=\"m2\" d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"/>", y - 5.0),
        _ => writeln!(svg, "<path class=\"m3\" d=\"M{x:.1} {:.1}l5 9h-10z\"/>", y - 5.0),
    };
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
