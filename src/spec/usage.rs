//! What a container uses, as it is read and as it is told.

/// Memory in bytes. `None`: this node does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Anonymous memory.
    pub rss: Option<u64>,
    /// Page cache.
    pub cache: Option<u64>,
    /// In swap.
    pub swap: Option<u64>,
    /// All that is charged.
    pub usage: Option<u64>,
    /// The most that ever was.
    pub max_usage: Option<u64>,
    /// Of the kernel on behalf of the container; v1 only.
    pub kernel: Option<u64>,
    /// The most of that; v1 only.
    pub kernel_max: Option<u64>,
}
