//! Tests of stores, init methods and the launcher. This program is started again for the roles in some tests.

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
