//! A stand-alone store for clients of PyTorch and of this library: `store_server ADDR:PORT`. It prints its address, and
//! ends when its standard input ends.

use std::io::Read;

use c10d_rendezvous::{ServerOptions, TcpStoreServer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into()).parse()?;
    let server = TcpStoreServer::bind(addr, ServerOptions::default())?;
    println!("{}", server.local_addr());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
