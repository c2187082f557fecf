//! Positions, ticks and what must be in the file.

use super::*;

fn chart(x: Scale, points: Vec<(f64, f64)>) -> Chart {
    let axis = |label: &str, scale| Axis { label: label.to_owned(), scale };
    let line = Line { name: "ferry <fast>".to_owned(), points, steps: x == Scale::Logarithmic };
    let panel =
        Panel { caption: "a".into(), x: axis("rate in MiB/s", x), y: axis("ms", Scale::Linear), lines: vec![line] };
    Chart { title: "total & downtime".to_owned(), subtitle: "1 GiB".to_owned(), panels: vec![panel] }
}

#[test]
fn linear_axes_begin_at_zero_and_end_at_a_round_number() {
    let range = Range::of(Scale::Linear, [30.0, 730.0].into_iter());
    assert_eq!((range.from, range.to, range.step), (0.0, 800.0, 200.0));
    assert_eq!(range.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0]);
    assert_eq!(range.share(400.0), 0.5);
}

#[test]
fn logarithmic_axes_span_whole_powers_of_ten() {
    let range = Range::of(Scale::Logarithmic, [16.0, 3000.0].into_iter());
    let ticks: Vec<_> = range.ticks().into_iter().map(number).collect();
    assert_eq!(ticks, ["10", "100", "1000", "10000"]);
    assert!((range.share(100.0) - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn nothing_and_a_single_zero_still_have_axes() {
    for scale in [Scale::Linear, Scale::Logarithmic] {
        for values in [vec![], vec![0.0], vec![1.0]] {
            let range = Range::of(scale, values.into_iter());
            assert!(range.to > range.from, "{range:?}");
            assert!(range.ticks().len() >= 2, "{range:?}");
        }
    }
}

#[test]
fn a_chart_has_its_words_escaped_and_follows_the_colour_scheme() {
    let text = chart(Scale::Linear, vec![(0.0, 1.0), (400.0, 4.0)]).render();
    for word in ["total &amp; downtime", "ferry &lt;fast&gt;", "rate in MiB/s", "1 GiB", "prefers-color-scheme:dark"] {
        assert!(text.contains(word), "{word} is missing");
    }
    assert!(!text.contains("NaN") && !text.contains("inf"));
    assert_eq!(text.matches("<circle").count(), 3);
}

#[test]
fn lines_go_where_their_values_are() {
    let text = chart(Scale::Linear, vec![(0.0, 0.0), (500.0, 5.0)]).render();
    // From the lower left corner of the frame to the upper right one.
    assert!(text.contains("d=\"M78.0 328.0L736.0 110.0\""), "{text}");
    let steps = chart(Scale::Logarithmic, vec![(10.0, 0.0), (100.0, 5.0)]).render();
    assert!(steps.contains("d=\"M78.0 328.0H736.0V110.0\""), "{steps}");
}
