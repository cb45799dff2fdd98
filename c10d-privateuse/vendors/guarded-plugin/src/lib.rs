//! The guarded device as a plugin, `libc10d_guarded_plugin.so`.

c10d_privateuse::export_device!("guarded", c10d_guarded::PROVIDER);
