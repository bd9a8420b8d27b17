//! Short looks at small files of the kernel, a few at a time.
//!
//! When a thousand tasks are taken up at once, each looks at its process and its cgroup. The blocking pool would make a
//! thread for each look, up to its bound of hundreds: their stacks, and the heaps of the allocator behind them, stay for long
//! after a moment's work.

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// Looks at once. The files are in memory, so more threads would only wait for the same cores.
const AT_ONCE: usize = 4;

/// See the module.
pub struct Looks(Semaphore);

impl Default for Looks {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Looks {
    /// Looks when its turn has come, first come first served. For what never waits for a disk or a network.
    ///
    /// # Errors
    /// If the look panicked.
    pub async fn at<T: Send + 'static>(
        &self,
        io: &Handle,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Never closed; an error would mean no bound, not no look.
        let _turn = self.0.acquire().await;
        io.spawn_blocking(look).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_looks_take_few_threads() {
        let (looks, now, most) = (Arc::new(Looks::default()), AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = Arc::new((now, most));
        let all = (0..200).map(|n| {
            let (looks, counts) = (Arc::clone(&looks), Arc::clone(&counts));
            tokio::spawn(async move {
                let look = move || {
                    let busy = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
                    counts.1.fetch_max(busy, Ordering::SeqCst);
                    std::thread::yield_now();
                    counts.0.fetch_sub(1, Ordering::SeqCst);
                    n
                };
                looks.at(&Handle::current(), look).await.unwrap()
            })
        });
        let mut sum = 0;
        for one in all.collect::<Vec<_>>() {
            sum += one.await.unwrap();
        }
        assert_eq!(sum, (0..200).sum::<usize>());
        let most = counts.1.load(Ordering::SeqCst);
        assert!((1..=AT_ONCE).contains(&most), "{most} at once");
    }
}
