//! A stand-alone store for PyTorch's clients and ours: `store_server ADDR:PORT`. Prints where it listens; ends with its
//! standard input.

use std::io::Read;

use c10d_rendezvous::{ServerOptions, TcpStoreServer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into()).parse()?;
    let server = TcpStoreServer::bind(addr, ServerOptions::default())?;
    println!("{}", server.local_addr());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
