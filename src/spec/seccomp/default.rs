//! containerd's default profile, as a table. Equal as data to `contrib/seccomp.DefaultProfile` of containerd 2.4.2, with
//! which the tests compare it (`tests/goldens/seccomp`).
//!
//! Everything is refused with EPERM but what stands here. What depends on capabilities follows the set that the container
//! ends up with; the Go driver asked before `cap_add` and `cap_drop`, so that a capability came without its calls.

use serde_json::{Value, json};
use std::collections::BTreeSet;

/// `ENOSYS`, on which C libraries fall back from `clone3` to `clone`; with EPERM they give up.
const ENOSYS: u32 = 38;

/// All `CLONE_NEW…` flags but that of time namespaces, which `clone` cannot make.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// With any arguments, on any machine.
const ALWAYS: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark \
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock \
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex \
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu \
    getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 \
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat \
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents \
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount \
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lsm_get_self_attr lsm_list_modules \
    lsm_set_self_attr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir \
    mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget \
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause \
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl \
    pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read \
    readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages \
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 \
    send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid \
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid \
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid \
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask \
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync \
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime \
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Socket families below this one, all harmless enough; `AF_ALG` (38) is the kernel's cryptography.
const FAMILIES_BELOW: u64 = 38;

/// And these: `AF_NFC`, `KCM`, `QIPCRTR`, `SMC`, `XDP`, `MCTP`. `AF_VSOCK` (40) reaches the host around the network. One rule
/// each: runc makes alternatives of two conditions on one argument.
const FAMILIES: [u64; 6] = [39, 41, 42, 43, 44, 45];

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question what it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Tracing others of the container: before this kernel it was a way around the filter itself.
const TRACING_SINCE: (u32, u32) = (4, 8);
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// What each capability is for.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (SYS_ADMIN, ADMINISTRATION),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYS_PACCT", "acct"),
    (
        "CAP_SYS_PTRACE",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
];
const SYS_ADMIN: &str = "CAP_SYS_ADMIN";
const ADMINISTRATION: &str = "\
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree \
    perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare";

/// What a machine has of its own: the architectures that its kernel runs (none: libseccomp's native one), further calls, and
/// the argument of `clone` that holds the flags.
struct Machine {
    architectures: &'static [&'static str],
    calls: &'static str,
    clone_flags: u32,
}

/// By `uname -m`.
fn machine(name: &str) -> Machine {
    const ARM: &str = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";
    let (architectures, calls): (&[&str], &str) = match name {
        "x86_64" => (
            &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "arch_prctl modify_ldt",
        ),
        "i386" | "i486" | "i586" | "i686" => (&[], "modify_ldt"),
        "aarch64" => (&["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"], ARM),
        "ppc64le" => (&[], "swapcontext sync_file_range2"),
        "s390x" => (
            &["SCMP_ARCH_S390", "SCMP_ARCH_S390X"],
            "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
        ),
        "riscv64" => (&["SCMP_ARCH_RISCV64"], "riscv_flush_icache riscv_hwprobe"),
        "loongarch64" => (&["SCMP_ARCH_LOONGARCH64"], ""),
        arm if arm.starts_with("arm") => (&[], ARM),
        _ => (&[], ""),
    };
    Machine {
        architectures,
        calls,
        // clone(2): s390 has the first two arguments the other way round.
        clone_flags: u32::from(name == "s390x"),
    }
}

/// OCI `linux.seccomp` for a machine (`uname -m`), a kernel and the bounding set of the container.
pub(super) fn profile(machine_name: &str, kernel: (u32, u32), caps: &BTreeSet<String>) -> Value {
    let machine = machine(machine_name);
    let mut rules = vec![allow(ALWAYS)];
    rules.push(allow_if("socket", 0, FAMILIES_BELOW, "SCMP_CMP_LT"));
    rules.extend(FAMILIES.map(|f| allow_if("socket", 0, f, "SCMP_CMP_EQ")));
    rules.extend(PERSONALITIES.map(|p| allow_if("personality", 0, p, "SCMP_CMP_EQ")));
    if kernel >= TRACING_SINCE {
        rules.push(allow(TRACING));
    }
    if !machine.calls.is_empty() {
        rules.push(allow(machine.calls));
    }
    let granted = BY_CAPABILITY.iter().filter(|(cap, _)| caps.contains(*cap));
    rules.extend(granted.map(|(_, calls)| allow(calls)));
    if !caps.contains(SYS_ADMIN) {
        rules.push(allow_if(
            "clone",
            machine.clone_flags,
            CLONE_NAMESPACES,
            "SCMP_CMP_MASKED_EQ",
        ));
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    let mut profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
    if !machine.architectures.is_empty() {
        profile["architectures"] = json!(machine.architectures);
    }
    profile
}

fn allow(names: &str) -> Value {
    let names: Vec<&str> = names.split_whitespace().collect();
    json!({"names": names, "action": "SCMP_ACT_ALLOW"})
}

/// Allowed if the argument compares so; with `MASKED_EQ`, if none of the bits is set.
fn allow_if(name: &str, index: u32, value: u64, op: &str) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [{"index": index, "value": value, "op": op}]})
}

#[cfg(test)]
#[path = "default_test.rs"]
mod tests;
