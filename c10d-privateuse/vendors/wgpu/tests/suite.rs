//! The conformance suite with its tensors in wgpu buffers, staged through gloo-like.

mod common;

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    let providers = [c10d::builtin(), &[&c10d_wgpu::PROVIDER]].concat();
    let suite = Suite::new(&providers).backend("wgpu:gloo-like").device("wgpu").worlds(&[1, 2, 3, 4]);
    match common::runtime() {
        Some(_) => suite.hint("staged.chunk", "65536").main(Ranks::Threads),
        None => ExitCode::SUCCESS,
    }
}
