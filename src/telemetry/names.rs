//! The closed sets of span names and field names. A span or field that is not here does not exist.
//!
//! Use them as `info_span!(names::TASK_START, { names::TASK_ID } = %id)`. Values are fields; names and message texts
//! are constant. `observability/CATALOGUE.md` is generated from [`CATALOGUE`].

/// What a name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A span.
    Span,
    /// A field of a span or of a log line.
    Field,
}

/// One line of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Span or field.
    pub kind: Kind,
    /// The name.
    pub name: &'static str,
    /// What it says, one sentence.
    pub doc: &'static str,
}

macro_rules! names {
    ($($kind:ident $id:ident = $name:literal : $doc:literal;)*) => {
        $(#[doc = $doc] pub const $id: &str = $name;)*

        /// Every name with its meaning, in the order of a task's life.
        pub const CATALOGUE: &[Entry] = &[$(Entry { kind: Kind::$kind, name: $name, doc: $doc }),*];
    };
}

names! {
    Span NOMAD_RPC = "nomad.rpc": "One call from Nomad, from its first byte to the answer; exported as `nomad.` and the method, which `rpc.method` repeats.";
    Span CLI_RUN = "cli.run": "One task run in the foreground by `containerd-driver run`.";
    Span ACTOR_MESSAGE = "actor.message": "An actor handles a message that has no span name of its own, a fact as a rule; a child of the teller's span, or a root if nobody asked for it.";
    Span TASK_OPEN = "task.open": "The root makes sure that a task has a supervisor.";
    Span TASK_START = "task.start": "The supervisor of a task brings it from nothing to running.";
    Span TASK_RECOVER = "task.recover": "The supervisor takes up a task that an earlier plugin process started.";
    Span TASK_WAIT = "task.wait": "Somebody waits for the exit of a task.";
    Span TASK_STOP = "task.stop": "Signal, grace, SIGKILL, until the task is gone.";
    Span TASK_SIGNAL = "task.signal": "A signal is sent to the first process of a task.";
    Span TASK_DESTROY = "task.destroy": "All that belongs to a task is removed.";
    Span TASK_INSPECT = "task.inspect": "A task is described.";
    Span TASK_EXEC = "task.exec": "A command runs in a task, from the wait for its turn until its pipes are removed.";
    Span EXEC_SWEEP = "exec.sweep": "Commands that an earlier plugin process left running in a task are killed. A root span.";
    Span TASK_SWEEP = "task.sweep": "What a task without a supervisor left behind is removed.";
    Span IMAGE_ENSURE = "image.ensure": "An image is made present, from disk or by a pull; `joined` marks who waits for the pull of another, whose span is linked.";
    Span IMAGE_PULL = "image.pull": "An image is fetched from its registry and unpacked.";
    Span IMAGE_LOAD = "image.load": "An image is taken from the archive of a task and unpacked.";
    Span IMAGE_SWEEP = "image.sweep": "All images are looked at, and those that nobody needs are removed. A root span.";
    Span IMAGE_PREFETCH = "image.prefetch": "An image that the operator wants on the node is made present. A root span.";
    Span IMAGE_RESOLVE = "image.resolve": "A reference is turned into a digest at the registry.";
    Span IMAGE_QUEUE = "image.queue": "A pull waits for its turn; `count` is how many were before it.";
    Span IMAGE_FETCH = "image.fetch": "One layer is fetched into the content store.";
    Span IMAGE_UNPACK = "image.unpack": "One layer becomes a snapshot.";
    Span CONTAINER_CREATE = "container.create": "The steps that make a container run, with the wait for their turn.";
    Span CONTAINER_REMOVE = "container.remove": "The same in reverse.";
    Span CONTAINER_STEP = "container.step": "Admission, or the removal of what an earlier or failed start has made; `step` says which.";
    Span CONTAINERD_CALL = "containerd.call": "One call to containerd; `operation` says which. containerd's own spans are its children.";
    Span LOG_CHECK = "log.check": "The log paths of a task are looked at.";
    Span LOG_ATTACH = "log.attach": "A stream of a container is given to a pump thread.";
    Span LOG_DRAIN = "log.drain": "The streams of a container are moved to their last byte.";
    Span STATS_WATCH = "stats.watch": "A stream of statistics is opened at the sampler.";
    Span STATS_SWEEP = "stats.sweep": "The counters of `count` containers are read, those of all streams that are due. A root span.";
    Span REAPER_SWEEP = "reaper.sweep": "All that tasks may leave behind is looked at, and orphans are removed. A root span.";
    Span REAPER_AUDIT = "reaper.audit": "The same for `containerd-driver audit`.";
    Span CONTAINER_REAP = "container.reap": "A container that nobody needs any more is removed, unless somebody has asked for it meanwhile.";
    Span HEALTH_PROBE = "health.probe": "containerd is asked how it is. A root span.";
    Span HEALTH_CANARY = "health.canary": "The canary is run: pull, create, wait, remove. A root span.";
    Span EVENTS_LOOK_UP = "events.look_up": "The event stream says what containerd knows of a task.";
    Span EVENTS_RESYNC = "events.resync": "After a subscription is live, tasks are listed. A root span.";

    Field TASK_ID = "task.id": "Nomad's task id.";
    Field TASK_NAME = "task.name": "Task name in the job.";
    Field ALLOC_ID = "alloc.id": "Allocation id.";
    Field JOB_ID = "job.id": "Job id.";
    Field CONTAINER_ID = "container.id": "Id of the container, its task and its snapshot in containerd.";
    Field EXEC_ID = "exec.id": "Id of a command that runs in a container, in containerd.";
    Field TERMINAL = "terminal": "True if a command has a terminal.";
    Field IMAGE_REF = "image.ref": "Normalised image reference.";
    Field IMAGE_DIGEST = "image.digest": "Manifest digest.";
    Field BLOB_DIGEST = "blob.digest": "Digest of one layer.";
    Field ACTOR_NAME = "actor.name": "Name of an actor.";
    Field MESSAGE = "message.name": "Name of a message between actors.";
    Field INCARNATION = "actor.incarnation": "How often the actor was started.";
    Field RPC_METHOD = "rpc.method": "Method of a gRPC call.";
    Field RPC_CODE = "rpc.grpc.status_code": "gRPC status code of the answer.";
    Field OPERATION = "operation": "What containerd is asked to do.";
    Field STEP = "step": "Name of a step.";
    Field OUTCOME = "outcome": "How it ended, one word.";
    Field ERROR = "error": "The error, for humans.";
    Field ERROR_KIND = "error.kind": "Class of the error, one word.";
    Field ATTEMPT = "attempt": "Which attempt, from 1.";
    Field ADOPTED = "adopted": "True if something of an earlier attempt was adopted.";
    Field JOINED = "joined": "True if the work for another asker was shared.";
    Field FORCE = "force": "True if what runs is killed first.";
    Field PULLED = "pulled": "True if the image had to be fetched.";
    Field EXIT_CODE = "exit.code": "Exit code, 128+n after signal n.";
    Field OOM_KILLED = "oom.killed": "True if the kernel killed the task for want of memory.";
    Field SIGNAL = "signal": "Signal number.";
    Field STREAM = "stream": "`stdout` or `stderr`.";
    Field PATH = "path": "Path on the host.";
    Field BYTES = "bytes": "Number of bytes.";
    Field COUNT = "count": "Number of things.";
    Field WAITED_MS = "waited_ms": "Time spent waiting for admission, milliseconds.";
    Field ENDPOINT = "endpoint": "Address of a service.";
    Field STATE = "state": "State of a task or of containerd.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_name_is_given_twice() {
        let names: BTreeSet<_> = CATALOGUE.iter().map(|e| e.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
    }

    #[test]
    fn names_are_lower_case_and_dotted() {
        for e in CATALOGUE {
            assert!(
                e.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_'),
                "{}",
                e.name
            );
            assert!(e.doc.ends_with('.'), "{}", e.name);
        }
    }

    fn sources(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn no_span_is_named_outside_this_file() {
        let mut files = Vec::new();
        sources(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut files,
        );
        assert!(files.len() > 50);
        for path in files {
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (n, line) in product.lines().enumerate() {
                let literal = ["_span!(\"", "_span!(parent: None, \""]
                    .iter()
                    .any(|l| line.contains(l));
                assert!(
                    !literal || path.ends_with("export_tests.rs"),
                    "{}:{}: {line}",
                    path.display(),
                    n + 1
                );
            }
        }
    }
}
