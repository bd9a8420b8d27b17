//! What happens when: all state and all decisions over time.
//!
//! | actor | owns | asked for / told | tells | when it dies |
//! |---|---|---|---|---|
//! | `Root` | the children, their replacement, escalation | `OpenTask`, `ChildExit` | process exit as the last resort | restarts; its state is the address book |
//! | `HealthProbe` | the verdict on containerd, the canary | `ProbeNow`, timer, new settings | the verdict, by a watch channel | restarts, probes at once; the last verdict stands |
//! | `EventStream` | the one subscription, the roster of tasks | `LookUpTask`, `ForgetTask` | `TaskExited`, `TaskOom`, `ContainerdAway`, `ProbeNow` | subscribes, **then** lists: nothing falls between |
//! | `ImagePuller` | who waits for which image, pulls in flight and their budgets, facts of images in use | `EnsureImage` | `PullProgress` | askers ask again; ingests make it resume |
//! | `ImageKeeper` | when it is time to look for images that nobody needs, the prefetch | new settings, ends of uses, a timer | `EnsureImage` | restarts; labels of images and the containers there are tell the rest |
//! | `ContainerFactory` | who waits for which creation or removal | `CreateContainer`, `RemoveContainer` | | work that has begun goes on; askers ask again and adopt its outcome |
//! | `TaskSupervisor` (one per task) | the task's state, its waiters, kill escalation | `Start`, `Recover`, `Wait`, `Stop`, `Signal`, `Destroy`, `Inspect`, `TaskExited`, `TaskOom`, `ContainerdAway`, `PullProgress` | `TaskEvent` | rebuilt from labels and containerd; waiters ask again |
//! | `LogPump` | which FIFO goes where | `CheckLogPaths`, `Attach`, `Drain` | | threads move on; it re-reads their attachments |
//! | `StatsSampler` | who watches which task, the last reading of each stream | `Watch`, `Unwatch`, a timer while anybody watches | `Usage` | its streams end and are opened again; counters are re-based |
//! | `Reaper` | when it is time to look for orphans | `Audit`, a timer | `ReapContainer`, `ForgetTask` | restarts; the next look finds the same |

pub mod absence;
pub mod container_factory;
pub mod event_stream;
pub mod health_probe;
pub mod image_keeper;
pub mod image_puller;
pub mod log_pump;
pub mod reaper;
pub mod shared;
pub mod stats_sampler;
pub mod supervision;
pub mod task_supervisor;
