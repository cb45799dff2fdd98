//! Tests of stores, init methods and the launcher. Some tests start this program again, to run one of the tests whose
//! names begin with `role_`.

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
