//! A host for task-driver plugins that is not Nomad: it launches a plugin as an agent does, speaks its protocol with types of its own, and
//! looks at containerd, the kernel and the log pipes from the outside.
//!
//! | module | what |
//! |---|---|
//! | [`rig`] | everything bundled for one test; start here |
//! | [`plugin`] | launch, configure, kill, re-attach a plugin process |
//! | [`task`], [`alloc`], [`fifo`] | task configurations, allocation directories, log pipes |
//! | [`schema`], [`types`], [`cty`] | option schemas, their evaluation, msgpack |
//! | [`containerd`], [`registry`], [`image`] | the private back end |
//! | [`valve`] | a registry at a pace, and what is asked of it |
//! | [`layers`], [`archive`] | images of any shape, and files of them |
//! | [`front`], [`tokens`], [`certificates`] | a registry with TLS, logins, tokens, or as a mirror |
//! | [`registry_proxy`] | requests to a registry counted, cut, slowed, damaged, refused |
//! | [`fake_containerd`] | tens of thousands of tasks that are only played |
//! | [`fault_proxy`] | calls to containerd delayed, lost, repeated, cut |
//! | [`census`], [`procfs`], [`sweep`] | what is left behind, and its removal |
//! | [`crowd`] | as many tasks as a node takes |
//! | [`go_task`] | tasks as the Go driver makes them |
//! | [`other_driver`] | the suites on another driver than ours |
//! | [`otlp`] | a trace collector |
//! | [`ledger`] | what was shown on which combination |
//! | [`stack`] | tests that need more stack than a test's thread has |
//! | [`within`] | waiting with a deadline and a name |

pub mod alloc;
pub mod archive;
pub mod census;
pub mod certificates;
pub mod containerd;
pub mod crowd;
pub mod cty;
pub mod daemon;
pub mod fake_containerd;
pub mod fault_proxy;
pub mod fifo;
pub mod front;
pub mod go_task;
pub mod http;
pub mod http_server;
pub mod image;
pub mod layers;
pub mod ledger;
pub mod other_driver;
pub mod otlp;
pub mod plugin;
pub mod procfs;
pub mod registry;
pub mod registry_proxy;
pub mod rig;
pub mod schema;
#[cfg(test)]
mod schema_tests;
pub mod stack;
pub mod status;
pub mod sweep;
pub mod task;
pub mod tokens;
pub mod types;
pub mod valve;
pub mod wire;
pub mod within;
