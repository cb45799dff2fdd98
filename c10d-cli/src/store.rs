//! `c10d store`: a stand-alone store.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;

use c10d::TcpStoreServer;
use c10d::tcp_store::ServerOptions;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Outcome;

/// Serve a TCPStore for clients of PyTorch and of this library, until SIGINT or SIGTERM.
///
/// Prints the address when the server listens.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The address to listen at; port 0 means any free port.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:29500")]
    bind: String,
}

pub(crate) fn store(args: &Args) -> Outcome {
    let addr = address(&args.bind)?;
    // The signal handlers are installed before the address is printed: a program that reads the address may send a
    // signal at once.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let server = TcpStoreServer::bind(addr, ServerOptions::default())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", server.local_addr())?;
    out.flush()?;
    signals.forever().next();
    Ok(ExitCode::SUCCESS)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|e| format!("{text:?} is not an address to listen at: {e}"))?;
    found.next().ok_or_else(|| format!("{text:?} has no address"))
}
