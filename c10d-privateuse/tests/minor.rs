//! A host of minor version n works with plugins that were built with the header of n - 1 and of n + 1.

mod common;

use c10d_core::{GroupBuilder, ReduceOp, run_ranks};
use c10d_privateuse::{Search, Verdict, abi};

const NEW: &str = "/* since 1.1 */";

/// The header as it was before version 1.1: without the members that it appended.
fn older(header: &str) -> String {
    let mut text = header.replace("#define C10D_ABI_MINOR 1\n", "#define C10D_ABI_MINOR 0\n");
    while let Some(mark) = text.find(NEW) {
        let end = mark + text[mark..].find('\n').unwrap();
        let this = text[..mark].rfind(';').unwrap();
        let before = text[..this].rfind(';').unwrap();
        let begin = before + text[before..].find('\n').unwrap();
        text.replace_range(begin..end, "");
    }
    text
}

/// The header as the next version may have it: every struct that a plugin fills, or that the host fills, is longer.
fn newer(header: &str) -> String {
    let text = header.replace("#define C10D_ABI_MINOR 1\n", "#define C10D_ABI_MINOR 2\n");
    let longer = |text: String, end: &str| {
        assert_eq!(text.matches(end).count(), 1, "{end}");
        text.replace(end, &format!("    uint64_t future; /* since 1.2 */\n{end}"))
    };
    let ends =
        ["} c10d_result;", "} c10d_capabilities;", "} c10d_collectives;", "} c10d_plugin;", "} c10d_group_init;"];
    ends.into_iter().fold(text, longer)
}

fn works(name: &str, header: &str, minor: u16, definitions: &[&str]) {
    let dir = common::directory();
    std::fs::write(dir.path().join("c10d_plugin.h"), header).unwrap();
    let name_is = format!("NAME=\"{name}\"");
    let words: Vec<&str> = definitions.iter().copied().chain([name_is.as_str()]).collect();
    let file = common::plugin_against(dir.path(), "sum.c", &dir.path().join("plugin.so"), &words);
    let report = Search::new().file(file).load();
    let decision = &report.decisions[0];
    assert_eq!((decision.verdict, decision.abi), (Verdict::Loaded, Some((1, minor))), "{decision}");
    let builder = GroupBuilder::new().providers(&report.providers).backend(&format!("cpu:{name}"));
    run_ranks(2, builder, |pg| {
        let mut x = [pg.rank() as f32 + 1.0; 100];
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        assert_eq!(x, [3.0; 100]);
        pg.shutdown()
    })
    .unwrap();
}

#[test]
fn plugins_of_the_version_before_and_after_work() {
    let header = std::fs::read_to_string(common::include().join("c10d_plugin.h")).unwrap();
    assert_eq!(abi::MINOR, 1, "these headers are made for minor version 1");
    let old = older(&header);
    for gone in ["store_add", "(*now)", "(*reduces)", "(*reduce)", "(*shutdown)", NEW] {
        assert!(header.contains(gone) && !old.contains(gone), "{gone}");
    }
    for kept in ["(*store_wait)", "(*free_host)", "(*abort)"] {
        assert!(old.contains(kept), "{kept}");
    }
    works("older", &old, 0, &[]);
    works("same", &header, 1, &[]);
    works("newer", &newer(&header), 2, &["FUTURE"]);
}
