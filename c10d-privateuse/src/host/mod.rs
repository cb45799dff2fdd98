//! The host's side of the ABI. It makes backends and device runtimes from plugins' tables.
//!
//! A plugin may hang, return invalid values, and end an operation twice or never. So the host calls the plugin on
//! threads that the host can abandon. Unless the user trusts the plugin, the host lends it only memory that can be
//! leaked. Each operation has a token that is valid for one answer.

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
