//! Tests of groups over threads of this program, and the same over TCP: order, messages, sub-groups, large worlds,
//! plugins that reduce.

mod samples;
mod stage;

mod async_order;
mod bytes;
mod catches;
mod groups;
mod large_worlds;
mod level2;
mod monitored_barrier;
mod p2p;
mod property;
mod under_tokio;
