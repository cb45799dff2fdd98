//! The ops: their table, their options, and their scalar arguments.

mod options;
mod params;
mod table;

pub use options::{
    Absent, AllReduceCoalescedOptions, AllReduceOptions, BarrierOptions, BroadcastOptions, Missing,
    MonitoredBarrierOptions, Options, RecvOptions, ReduceOptions, ReduceScatterOptions, SendOptions,
};
pub use params::Params;
pub use table::{OpKind, OpRow, OpSet, Shape, declared};
