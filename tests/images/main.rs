//! Images through the plugin protocol, against a real containerd and real registries: pulled from anywhere, with the right
//! credentials, once for many, and cleaned up.
//!
//! Needs what `lifecycle` needs, and `openssl`. The variables are the same; `CD_CASE` runs only the cases with this in their
//! name.
//!
//! Groups named `…_by_ourselves` run the cases of a pull that the driver makes itself also where containerd has a transfer
//! service, which by default is then asked to pull. With containerd 1.6 the driver always pulls itself.
//!
//! | module | what |
//! |---|---|
//! | `pulls` | formats, platforms, shared layers, moved tags, one pull for many |
//! | `registries` | TLS, logins, tokens, a mirror |
//! | `interop` | `ctr` beside us, and containerd's garbage collection |
//! | `faults` | connections cut, blobs damaged, requests sent elsewhere |
//! | `secrets` | where a password must not be |
//! | `hosts` | `hosts.toml`, and a registry that wants patience |
//! | `trust` | certificates as people make them, and what containerd and the driver make of them |
//! | `refusals` | what a registry refuses containerd and does not refuse us; passwords that change |
//! | `credentials` | the operator's credentials, and who may use what is here |
//! | `policy`, `queue` | when the registry is asked, and who waits for whom |
//! | `load`, `gc` | images from files, and images that are not needed any more |
//! | `scene`, `store` | what the cases share |

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a broken bench ends the test, which is what a test is for"
)]

#[path = "../lifecycle/bench.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each suite uses its part of the bench"
)]
mod bench;
mod credentials;
mod faults;
mod gc;
mod hosts;
mod interop;
mod load;
mod policy;
mod pulls;
mod queue;
mod refusals;
mod registries;
mod scene;
mod secrets;
mod store;
mod trust;
