//! Puts data into the page: styles, scripts and data are in the document itself, and nothing is
//! fetched.
//!
//! The data contains output of guests and processes, so it must not end the element that holds it,
//! or begin another. The scripts write it as text only, and the page's content security policy
//! blocks everything from elsewhere.

use serde_json::{Value, json};

use super::Report;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// In the order of their dependencies.
const SCRIPTS: [&str; 8] = [
    include_str!("page/core.js"),
    include_str!("page/diagram.js"),
    include_str!("page/charts.js"),
    include_str!("page/grid.js"),
    include_str!("page/matrix.js"),
    include_str!("page/cell.js"),
    include_str!("page/migration.js"),
    include_str!("page/main.js"),
];

/// The whole document.
pub(super) fn render(report: &Report) -> String {
    let (title, data) = match report {
        Report::Matrix(matrix) => ("Ferry fault matrix", json!({ "matrix": with_seeds_as_text(json!(matrix)) })),
        Report::Migrations(story) => ("Ferry migration", json!({ "story": story })),
    };
    let scripts = SCRIPTS.concat();
    // Each value is inserted once, and inserted text is not searched again: data may hold any text.
    let mut page = String::new();
    let mut rest = PAGE;
    for (place, value) in
        [("{{title}}", title), ("{{style}}", STYLE), ("{{data}}", &quoted(&data)), ("{{script}}", &scripts)]
    {
        let (before, after) = rest.split_once(place).expect("the page has a place for each part");
        page.push_str(before);
        page.push_str(value);
        rest = after;
    }
    page + rest
}

/// JSON that can stand in a script element: without `<` nothing in it can end the element or begin
/// a comment.
fn quoted(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// A browser's numbers hold 53 bits; a seed has 64.
fn with_seeds_as_text(mut matrix: Value) -> Value {
    let as_text = |seed: &mut Value| *seed = Value::String(seed.to_string());
    as_text(&mut matrix["seed"]);
    for cell in matrix["cells"].as_array_mut().into_iter().flatten() {
        as_text(&mut cell["seed"]);
    }
    matrix
}
