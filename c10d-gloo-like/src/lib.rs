#![doc = include_str!("../README.md")]

mod exec;
mod link;
mod mesh;
mod pause;
mod plan;
mod reduce;
mod schedule;
mod shm;
mod tcp;
