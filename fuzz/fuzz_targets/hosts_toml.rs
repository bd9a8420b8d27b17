//! See `containerd_driver::spec::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| containerd_driver::spec::fuzzing::hosts_toml(data));
