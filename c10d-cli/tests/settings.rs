//! The table of settings in the manual has every variable and hint that the linked providers declare.

use std::collections::BTreeSet;

use c10d::backend::Registry;

#[test]
fn the_manual_has_every_setting() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../src/manual/settings.md")).unwrap();
    let table = page.split("\n# Variables and hints\n").nth(1).unwrap().split("\n# ").next().unwrap();
    let cells = |column: usize| -> BTreeSet<&str> {
        let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
        rows.filter_map(|row| row.split('|').nth(column)?.trim().strip_prefix('`')?.strip_suffix('`')).collect()
    };
    let registry = Registry::collect(c10d::builtin()).unwrap();
    let missing = |declared: BTreeSet<&'static str>, told: &BTreeSet<&str>| -> Vec<&str> {
        declared.into_iter().filter(|name| !told.contains(name)).collect()
    };
    assert_eq!(missing(registry.variables().collect(), &cells(1)), [""; 0]);
    assert_eq!(missing(registry.hints().collect(), &cells(2)), [""; 0]);
    assert!(registry.variables().any(|name| name == "C10D_LOG") && registry.hints().any(|name| name == "warn-after"));
}
