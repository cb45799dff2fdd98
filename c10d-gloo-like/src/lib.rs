#![doc = include_str!("../README.md")]

mod plan;
mod schedule;
