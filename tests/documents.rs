//! What the documents name is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of all functions in the Rust files below `dir`.
fn functions(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory of this project") {
        let path = entry.expect("a directory of this project").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a text");
            names.extend(text.lines().filter_map(|line| {
                line.trim_start().strip_prefix("fn ")?.split_once('(').map(|(name, _)| name.to_owned())
            }));
        }
    }
}

fn document(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a text")
}

/// The names of all functions of this project.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for dir in ["src", "tests", "loadgen"] {
        functions(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut known);
    }
    known
}

/// Each row names tests in its last column, and each of them is there.
#[track_caller]
fn assert_rows_name_tests(table: &str, rows_min: usize) {
    let known = known();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= rows_min, "{} rows", rows.len());
    for row in rows {
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
    let (faults, _) = text.split_once("\n## ").expect("sections behind the table of faults");
    assert_rows_name_tests(faults, 35);
}

#[test]
fn each_row_of_features_names_tests_that_exist() {
    let text = document("docs/FEATURES.md");
    let (features, _) = text.split_once("\n## ").expect("sections behind the table of features");
    assert_rows_name_tests(features, 22);
}
