//! What the documents name is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of all tests in the Rust files below `dir`.
fn tests(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory of this project") {
        let path = entry.expect("a directory of this project").path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a text");
            let mut is_test = false;
            for line in text.lines().map(str::trim_start) {
                match line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
                    Some((name, _)) if is_test => _ = names.insert(name.to_owned()),
                    // Other attributes and comments may stand between.
                    None if line.starts_with('#') || line.starts_with("//") => {
                        is_test |= line == "#[test]";
                        continue;
                    }
                    Some(_) | None => {}
                }
                is_test = false;
            }
        }
    }
}

fn document(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a text")
}

/// The names of all tests of this project.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for dir in ["src", "tests", "loadgen"] {
        tests(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut known);
    }
    known
}

/// The rows of a table, without its head.
fn rows(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter(|line| line.starts_with("| ")).skip(1)
}

/// Each row names tests in its last column, and each of them is there.
#[track_caller]
fn assert_rows_name_tests(table: &str, rows_min: usize) {
    let known = known();
    assert!(rows(table).count() >= rows_min, "{} rows", rows(table).count());
    for row in rows(table) {
        let tests = row.trim_end_matches('|').rsplit('|').next().expect("a last column");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            assert!(known.contains(test), "there is no test {test}");
        }
    }
}

#[test]
fn each_row_of_reliability_names_tests_that_exist() {
    let text = document("docs/RELIABILITY.md");
    let (faults, rest) = text.split_once("\n## ").expect("sections behind the table of faults");
    assert_rows_name_tests(faults, 35);
    let (_, unfound) = rest.split_once("are held by other tests:").expect("breakages that the simulator does not find");
    let unfound = unfound.split("\n\n").nth(1).expect("a list of them");
    let known = known();
    let named: Vec<&str> = unfound.split('`').skip(1).step_by(2).collect();
    assert!(named.len() >= 5, "{named:?}");
    named.iter().for_each(|test| assert!(known.contains(*test), "there is no test {test}"));
}

#[test]
fn each_row_of_features_is_done_and_names_tests_that_exist() {
    let text = document("docs/FEATURES.md");
    let (features, _) = text.split_once("\n## ").expect("sections behind the table of features");
    assert_rows_name_tests(features, 22);
    for row in rows(features) {
        assert!(row.starts_with("| ✓ |"), "not done: {row}");
    }
}
