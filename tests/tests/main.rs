//! Tests with threads of this program as ranks, many of them also over TCP.

mod jobs;
mod samples;

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
