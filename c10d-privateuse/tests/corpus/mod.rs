//! Tests with bad plugins. The loader rejects each bad plugin by the expected rule, and loads the good plugins in the
//! same directory. No code of the bad plugins runs, except the constructors and entries of those in `tables`.

mod elf;
mod files;
mod lab;
mod paths;
mod tables;

use std::collections::BTreeMap;
use std::time::Instant;

use c10d_privateuse::{Decision, Rule, Search, Verdict};
use lab::{Entry, Lab};

use crate::common;

/// Plugins that are rejected before they are loaded, all in one directory.
fn before_loading() -> Vec<Entry> {
    [elf::entries(), files::entries()].concat()
}

/// Puts entries and two good plugins into one directory. Returns the entries that could be made.
fn fill(lab: &Lab, entries: &[Entry]) -> BTreeMap<String, Entry> {
    // By their names, the good plugins are the first and the last in the directory.
    common::plugin("sum.c", &lab.junk().join("libc10d_00_good.so"), &[&format!("NAME=\"{}a\"", lab.prefix)]);
    common::plugin("sum.c", &lab.junk().join("libc10d_zz_good.so"), &[&format!("NAME=\"{}z\"", lab.prefix)]);
    let mut there = BTreeMap::new();
    for (i, entry) in entries.iter().enumerate() {
        let file = format!("libc10d_{i:02}_{}.so", entry.name.replace(' ', "_"));
        match (entry.make)(lab, &lab.junk().join(&file)) {
            Ok(()) => drop(there.insert(file, *entry)),
            Err(why) => eprintln!("{} skipped: {why}", entry.name),
        }
    }
    there
}

/// Checks that each bad plugin was rejected by its rule, that both good plugins were loaded, and that no code of a bad
/// plugin ran.
fn judge(lab: &Lab, decisions: &[Decision], there: &BTreeMap<String, Entry>) {
    let mut wrong = Vec::new();
    let mut loaded = 0;
    for d in decisions {
        let file = d.path.file_name().unwrap().to_string_lossy().into_owned();
        match there.get(&file) {
            None => {
                assert_eq!(d.verdict, Verdict::Loaded, "{d}");
                loaded += 1;
            }
            Some(e) if d.rule != Some(e.rule) => wrong.push(format!("{} wants {}: {d}", e.name, e.rule)),
            Some(_) => assert!(matches!(d.verdict, Verdict::Refused | Verdict::Skipped), "{d}"),
        }
    }
    assert_eq!(loaded, 2, "both good plugins must load");
    assert_eq!(decisions.len(), there.len() + 2);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!lab.canary().exists(), "code of a refused plugin ran");
}

#[test]
fn bad_plugins_are_rejected_and_good_ones_loaded() {
    let lab = Lab::new("corpus-");
    let there = fill(&lab, &before_loading());
    let report = Search::new().directory(lab.junk()).load();
    judge(&lab, &report.decisions, &there);
    assert_eq!(report.providers.len(), 2);
}

#[test]
fn the_corpus_covers_the_rules() {
    let all = [before_loading(), paths::entries(), tables::entries()].concat();
    assert!(all.len() >= 40, "{}", all.len());
    // These rules have tests of their own.
    let elsewhere = [Rule::Crash, Rule::Privileged, Rule::Replaced, Rule::Limit, Rule::Filter];
    for rule in Rule::ALL.iter().filter(|rule| !elsewhere.contains(rule)) {
        assert!(all.iter().any(|e| e.rule == *rule), "{rule}");
    }
    let mut names: Vec<_> = all.iter().map(|e| e.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len(), "names are unique");
}

#[test]
fn the_constructor_writes_the_canary() {
    // In the other tests, a missing canary (a file) shows that no code ran. So this test checks that the constructor
    // makes the canary.
    let lab = Lab::new("sings-");
    let file = lab.junk().join("libc10d_good.so");
    lab.compile(&file, &["NAME=\"sings\""], &[]);
    assert_eq!(Search::new().file(&file).load().decisions[0].verdict, Verdict::Loaded);
    assert!(lab.canary().exists());
}

#[test]
fn paths_and_directories_are_refused_by_their_rule() {
    for entry in paths::entries() {
        let lab = Lab::new("paths-");
        match (entry.make)(&lab, &lab.junk().join("libc10d_it.so")) {
            Ok(()) => assert!(!lab.canary().exists(), "{}: code of a refused plugin ran", entry.name),
            Err(why) if why.starts_with("skipped: ") => eprintln!("{} {why}", entry.name),
            Err(why) => panic!("{} wants {}: {why}", entry.name, entry.rule),
        }
    }
}

#[test]
fn tables_are_validated_before_anything_in_them_is_used() {
    let lab = Lab::new("tables-");
    let there = fill(&lab, &tables::entries());
    let report = Search::new().directory(lab.junk()).load();
    judge(&lab, &report.decisions, &there);
    let null = report.decisions.iter().find(|d| d.path.to_string_lossy().ends_with("_null.so")).unwrap();
    assert!(null.detail.contains("returned null"), "{null}");
}

#[test]
fn a_second_plugin_of_the_same_name_is_not_used() {
    let lab = Lab::new("twice-");
    let place = |file: &str| lab.junk().join(file);
    for file in ["libc10d_a.so", "libc10d_b.so"] {
        lab.compile(&place(file), &["NAME=\"twice\""], &[]);
    }
    let looked = Search::new().directory(lab.junk()).inspect().decisions;
    assert_eq!((looked[0].verdict, looked[1].rule), (Verdict::Passed, Some(Rule::Name)), "{}", looked[1]);
    assert!(!lab.canary().exists());
    assert_eq!(Search::new().file(place("libc10d_a.so")).load().decisions[0].verdict, Verdict::Loaded);
    let second = &Search::new().file(place("libc10d_b.so")).load().decisions[0];
    assert_eq!(second.rule, Some(Rule::Name), "{second}");
}

#[test]
fn a_file_that_changes_while_it_is_loaded_is_not_used() {
    let lab = Lab::new("changes-");
    let file = lab.junk().join("libc10d_it.so");
    let how = format!("HOW=unlink(\"{}\")", file.display());
    common::plugin("ends.c", &file, &["NAME=\"changes\"", &how]);
    let report = Search::new().file(&file).load();
    assert_eq!(
        (report.decisions[0].rule, report.providers.len()),
        (Some(Rule::Replaced), 0),
        "{}",
        report.decisions[0]
    );
}

#[test]
fn one_plugin_among_a_thousand_other_files_is_found() {
    let lab = Lab::new("many-");
    for i in 0..1000 {
        std::fs::write(lab.junk().join(format!("libc10d_junk{i:04}.so")), format!("junk {i}")).unwrap();
    }
    common::plugin("sum.c", &lab.junk().join("libc10d_sum.so"), &["NAME=\"among-many\""]);
    let begun = Instant::now();
    let report = Search::new().directory(lab.junk()).load();
    eprintln!("1001 files in {:?}", begun.elapsed());
    assert_eq!(report.decisions.len(), 1001);
    assert_eq!(report.decisions.iter().filter(|d| d.rule == Some(Rule::NotElf)).count(), 1000);
    assert_eq!(report.providers.len(), 1);
    // A directory with more than 4096 plugin files (`MOST_NAMES`) is rejected as a whole, whatever the order in which
    // its files are listed.
    for i in 1000..4200 {
        std::fs::write(lab.junk().join(format!("libc10d_junk{i:04}.so")), "").unwrap();
    }
    let report = Search::new().directory(lab.junk()).load();
    assert_eq!((report.decisions.len(), report.decisions[0].rule), (1, Some(Rule::Limit)));
}
