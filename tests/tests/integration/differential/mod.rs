//! EQUIV: what is built twice answers alike. The rules of the profiles against Cedar, the native build against the component
//! (`engines`), the embedded store against PostgreSQL (`stores`): over everything that can be counted, and over 100,000
//! random requests, or as many as `PORTREEVE_DIFFERENTIAL` says; the stores, which write to a disk, over a fifth of that. What they
//! disagree about is shrunk, and shown side by side.

mod engines;
mod stores;

use std::fmt::Write as _;

use serde_json::Value;

use crate::stateful::number;

/// Random requests of each comparison.
fn requests() -> usize {
    number("PORTREEVE_DIFFERENTIAL").map_or(100_000, |requests| usize::try_from(requests).unwrap())
}

/// Two answers beside each other, as far as they differ; none where they do not.
fn side_by_side(names: [&str; 2], answers: [&Value; 2]) -> Option<String> {
    let mut text = String::new();
    differences("", answers, &mut |place, [left, right]| {
        writeln!(text, "  {place}\n    {:<9} {left}\n    {:<9} {right}", names[0], names[1]).unwrap();
    });
    (!text.is_empty()).then_some(text)
}

fn differences(place: &str, [left, right]: [&Value; 2], tell: &mut dyn FnMut(&str, [&Value; 2])) {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
            for name in names {
                let of =
                    |map: &'_ serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or(Value::from("(absent)"));
                differences(&format!("{place}.{name}"), [&of(left), &of(right)], tell);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (n, pair) in left.iter().zip(right).enumerate() {
                differences(&format!("{place}[{n}]"), [pair.0, pair.1], tell);
            }
        }
        (left, right) if left == right => {}
        (left, right) => tell(if place.is_empty() { "(whole)" } else { place }, [left, right]),
    }
}

#[test]
fn a_disagreement_is_shown_where_it_is() {
    let (left, right) =
        (serde_json::json!({"a": 1, "b": [1, {"c": 2}]}), serde_json::json!({"a": 1, "b": [1, {"c": 3}]}));
    assert_eq!(side_by_side(["x", "y"], [&left, &left]), None);
    assert_eq!(side_by_side(["x", "y"], [&left, &right]).unwrap(), "  .b[1].c\n    x         2\n    y         3\n");
    let absent = serde_json::json!({"a": 1});
    assert!(side_by_side(["x", "y"], [&left, &absent]).unwrap().contains("(absent)"));
}
