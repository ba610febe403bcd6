//! The specification speaks of what there is: names in `formal/README.md` are those of the sources.

use std::fs;
use std::path::Path;

use crate::tidy::{files, root};

fn formal(name: &str) -> String {
    fs::read_to_string(root().join("formal").join(name)).unwrap_or_else(|error| panic!("formal/{name}: {error}"))
}

/// The cells of the rows of a table under a heading.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let section = text.split(heading).nth(1).unwrap_or_else(|| panic!("there is no `{heading}`"));
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let found: Vec<Vec<String>> = rows.skip(2).map(cells).collect();
    assert!(found.len() > 5, "the table under `{heading}` has {} rows", found.len());
    found
}

/// The names in backticks of a cell.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn is_defined(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        rest.starts_with(" ==") || (rest.starts_with('(') && rest.contains(") =="))
    })
}

#[test]
fn names_of_the_specification_are_those_of_the_sources() {
    let (readme, spec, models) = (formal("README.md"), formal("Coordination.tla"), formal("MC.tla"));
    let text = |found: Vec<(String, String)>| found.into_iter().map(|(_, text)| text + "\n").collect::<String>();
    let (rust, sql) = (text(files("host/src", &["rs"])), text(files("migrations/postgres", &["sql"])));
    let mut wrong = Vec::new();
    for row in table(&readme, "## What stands for what") {
        let [tla, code, functions, promise] = <[String; 4]>::try_from(row).unwrap();
        let unknown = |found: bool, name: &str, place: &str| (!found).then(|| format!("`{name}` is not in {place}"));
        wrong.extend(names(&tla).filter_map(|name| unknown(is_defined(&spec, name), name, "Coordination.tla")));
        let is_rust = |name: &str| {
            [format!("fn {name}("), format!("fn {name}<"), format!("struct {name} "), format!("struct {name};")]
                .iter()
                .any(|form| rust.contains(form.as_str()))
        };
        wrong.extend(names(&code).filter_map(|name| unknown(is_rust(name), name, "host/src")));
        let is_sql = |name: &str| sql.contains(&format!("FUNCTION {name}("));
        wrong.extend(names(&functions).filter_map(|name| unknown(is_sql(name), name, "migrations/postgres")));
        assert!([&tla, &code, &functions].iter().all(|cell| names(cell).next().is_some()), "{tla}: an empty cell");
        assert!(spec.contains(&format!("{promise}_")), "{promise}");
    }
    for row in table(&readme, "## What is promised") {
        let [promise, invariants, steps] = <[String; 3]>::try_from(row).unwrap();
        for name in names(&invariants).chain(names(&steps)) {
            assert!(name.starts_with(&format!("{promise}_")), "{name} is listed under {promise}");
            if !is_defined(&spec, name) && !is_defined(&models, name) {
                wrong.push(format!("`{name}` is not in the specification"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whoever adds a promise has to let it be checked, and has to show that it can fail.
#[test]
fn each_promise_is_checked_by_a_model_and_found_broken_in_a_mutant() {
    let (spec, models, mutants) = (formal("Coordination.tla"), formal("MC.tla"), formal("mustfail/mutants.txt"));
    let configurations: String = ["Core.cfg", "CoreSymmetric.cfg", "Deadlines.cfg", "Split.cfg", "Live.cfg"]
        .iter()
        .map(|name| formal(name))
        .collect();
    let promised = spec.lines().chain(models.lines()).filter_map(|line| {
        let name = line.split_once(" ==")?.0;
        let is_name =
            name.split_once('_').is_some_and(|(promise, _)| promise.bytes().all(|byte| byte.is_ascii_uppercase()));
        is_name.then(|| name.to_owned())
    });
    let mut count = 0;
    for name in promised {
        count += 1;
        // What is promised of a step has a property of its own, which the configurations name.
        let as_property = models.lines().find_map(|line| {
            line.ends_with(&format!("== [][{name}]_vars")).then(|| line.split_once(" ==").unwrap().0.to_owned())
        });
        let asked = as_property.unwrap_or(name);
        let is_word = |text: &str| text.split_whitespace().any(|word| word == asked);
        assert!(is_word(&configurations), "no model checks {asked}");
        assert!(is_word(&mutants), "{asked}: a mutant has to show that it can fail");
    }
    assert!(count > 20, "{count}");
    assert!(Path::new(&root().join("formal/check")).is_file());
}
