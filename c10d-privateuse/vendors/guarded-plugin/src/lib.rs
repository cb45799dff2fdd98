//! The simulated device of the tests (`c10d-guarded`) as a plugin, `libc10d_guarded_plugin.so`.

c10d_privateuse::export_device!("guarded", c10d_guarded::PROVIDER);
