//! The ops: their table, their options, and their scalar arguments.

mod options;
mod params;
mod table;

pub use options::{
    Absent, AllGatherOptions, AllReduceCoalescedOptions, AllReduceOptions, AllToAllOptions, BarrierOptions,
    BroadcastOptions, GatherOptions, Missing, MonitoredBarrierOptions, Options, RecvOptions, ReduceOptions,
    ReduceScatterOptions, ScatterOptions, SendOptions,
};
pub use params::Params;
pub use table::{OpKind, OpRow, OpSet, Shape, declared};
