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

#[test]
fn each_row_of_reliability_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    for dir in ["src", "tests", "loadgen"] {
        functions(&root.join(dir), &mut known);
    }
    let text = fs::read_to_string(root.join("docs/RELIABILITY.md")).expect("a text");
    let (faults, _) = text.split_once("\n## ").expect("sections behind the table of faults");
    let rows: Vec<&str> = faults.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 35, "{} rows", rows.len());
    for row in rows {
        let tests = row.trim_end_matches('|').rsplit('|').next().expect("a last column");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            assert!(known.contains(test), "there is no test {test}");
        }
    }
}
