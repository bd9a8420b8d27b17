//! Tests whose futures are large: without optimisation a group of cases needs more than the two mebibytes of a test's thread.

use std::future::Future;
use std::panic::resume_unwind;
use std::thread;

/// Bytes of stack of each thread; only what is touched is ever in memory.
const STACK: usize = 64 << 20;

/// Workers beside the thread that polls the test itself, as many as the suites' other tests have.
const WORKERS: usize = 2;

/// Runs a test's future to its end on a runtime of its own, all of whose threads have a large stack. A panic of the future is
/// the test's.
pub fn on_a_large_stack<F>(test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    // Named like the test, so that a panic says whose it is.
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_stack_size(STACK)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(test());
    };
    let thread = thread::Builder::new().name(name).stack_size(STACK).spawn(run);
    if let Err(panic) = thread.expect("a thread").join() {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::on_a_large_stack;
    use std::hint::black_box;

    /// Twice what a test's thread has, and moved about a few times without optimisation.
    const DEEP: usize = 4 << 20;

    async fn deep() -> usize {
        let large = black_box([1_u8; DEEP]);
        tokio::task::yield_now().await;
        large.len()
    }

    #[test]
    fn both_kinds_of_threads_have_room() {
        on_a_large_stack(|| async {
            assert_eq!(deep().await, DEEP);
            assert_eq!(tokio::spawn(deep()).await.expect("no panic"), DEEP);
        });
    }

    #[test]
    fn a_panic_is_the_tests() {
        let run = || on_a_large_stack(|| async { panic!("the test's own words") });
        let panic = std::panic::catch_unwind(run).expect_err("a panic");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the test's own words"));
    }
}
