//! Stores, init methods and the launcher. Roles are played by this program, started again.

mod common;
mod contract;
mod deadlines;
mod file_store;
mod hosts;
mod init;
mod launch;
mod pytorch;
mod server;
mod strangers;
mod wire;
