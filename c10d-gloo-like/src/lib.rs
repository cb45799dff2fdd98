#![doc = include_str!("../README.md")]

mod link;
mod pause;
mod plan;
mod schedule;
mod shm;
mod tcp;
