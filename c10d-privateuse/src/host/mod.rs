//! The host's side of the ABI. It makes backends and device runtimes from plugins' tables.
//!
//! A plugin may hang, return wrong values, and end an operation twice or never. So its functions run on threads that
//! can be given up, it gets only memory that can be leaked, and a token, which is valid once, stands for each
//! operation.

mod answer;
mod backend;
mod clock;
mod device;
mod done;
mod functions;
mod give;
mod group;
mod groups;
mod lend;
mod listen;
mod loaded;
mod make;
mod operation;
mod overdue;
mod owners;
mod plugin;
mod provider;
mod queues;
mod request;
mod slots;
mod stores;
mod submit;
mod timed_call;
mod token;

pub(crate) use loaded::LoadedPlugin;
pub(crate) use plugin::Hosted;
pub(crate) use provider::is_plugin;
