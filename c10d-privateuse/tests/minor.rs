//! A host of minor version n works with plugins that were built with the header of n - 1 and of n + 1.

mod common;

use std::time::{Duration, Instant};

use c10d_core::{GroupBuilder, ReduceOp, op, run_ranks};
use c10d_privateuse::{Search, Verdict, abi};

/// The header as it was in a minor version: without the members that later ones appended.
fn older(header: &str, minor: u16) -> String {
    let mut text = version(header, minor);
    for later in minor + 1..=abi::MINOR {
        let new = format!("/* since 1.{later} */");
        while let Some(mark) = text.find(&new) {
            let end = mark + text[mark..].find('\n').unwrap();
            let this = text[..mark].rfind(';').unwrap();
            let before = text[..this].rfind(';').unwrap();
            let begin = before + text[before..].find('\n').unwrap();
            text.replace_range(begin..end, "");
        }
    }
    text
}

fn version(header: &str, minor: u16) -> String {
    let define = |minor: u16| format!("#define C10D_ABI_MINOR {minor}\n");
    assert_eq!(header.matches(&define(abi::MINOR)).count(), 1);
    header.replace(&define(abi::MINOR), &define(minor))
}

/// The header as the next version may have it: every struct that a plugin fills, or that the host fills, is longer.
fn newer(header: &str) -> String {
    let text = version(header, abi::MINOR + 1);
    let longer = |text: String, end: &str| {
        assert_eq!(text.matches(end).count(), 1, "{end}");
        text.replace(end, &format!("    uint64_t future;\n{end}"))
    };
    let ends =
        ["} c10d_result;", "} c10d_capabilities;", "} c10d_collectives;", "} c10d_plugin;", "} c10d_group_init;"];
    ends.into_iter().fold(text, longer)
}

/// Builds `sum.c` against the header, and uses it. `splits`: what becomes of its parts.
fn works(name: &str, header: &str, minor: u16, definitions: &[&str], splits: &str) {
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
        // Both have somebody to wait for.
        let other = 1 - pg.rank();
        let (sent, got) = pg.batch(vec![op::send(vec![7f32], other, 1)], vec![op::recv(vec![0f32], other, 1)]);
        assert_eq!(got.into_iter().map(|w| w.wait()).collect::<Result<Vec<_>, _>>()?, [[7.0]]);
        sent.into_iter().try_for_each(|w| w.wait().map(drop))?;
        let part = pg.new_group(&[1, 0])?.unwrap();
        part.all_reduce(&mut x, ReduceOp::Sum)?;
        assert_eq!(x, [6.0; 100]);
        let soon = Instant::now() + Duration::from_secs(20);
        assert_eq!(part.store().get(&format!("{name}/made/{}", part.rank()), soon)?, splits.as_bytes());
        assert!(pg.failure().is_none());
        part.shutdown()?;
        pg.shutdown()
    })
    .unwrap();
}

#[test]
fn plugins_of_the_versions_before_and_after_work() {
    let header = std::fs::read_to_string(common::include().join("c10d_plugin.h")).unwrap();
    assert_eq!(abi::MINOR, 2, "these headers are made for minor version 2");
    let (first, before) = (older(&header, 0), older(&header, 1));
    for gone in ["store_add", "(*now)", "(*reduces)", "(*reduce)", "(*shutdown)", "/* since 1.1 */"] {
        assert!(before.contains(gone) && !first.contains(gone), "{gone}");
    }
    for gone in ["(*identity)", "by_op;", "(*split)", "(*submit_batch)", "(*async_error)", "/* since 1.2 */"] {
        assert!(header.contains(gone) && !before.contains(gone), "{gone}");
    }
    for kept in ["(*store_wait)", "(*free_host)", "(*abort)", "op_count;"] {
        assert!(first.contains(kept), "{kept}");
    }
    works("first", &first, 0, &[], "anew");
    works("before", &before, 1, &[], "anew");
    works("same", &header, 2, &[], "split");
    works("newer", &newer(&header), 3, &["FUTURE"], "split");
}
