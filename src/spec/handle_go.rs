//! The handle of the Go driver: `TaskHandle` version 1, as a node has it that was upgraded while its tasks ran.
//!
//! Its `driver_state` is a msgpack map by the names of the fields (`StartedAt`, `ContainerName`, `StdoutPath`,
//! `StderrPath`); the encoder writes neither `bin` nor extensions, so a time is a string of bytes as Go's
//! `time.Time.MarshalBinary` makes them (a later encoder of Nomad: extension −1). It names no containerd namespace: the
//! Go driver has two, one for each cgroup version, and the form of the container's name tells which it was.

use super::identity::ContainerId;
use super::record::HandleState;
use super::value;
use rmpv::Value;
use std::path::PathBuf;

/// The version.
pub(super) const VERSION: i32 = 1;

/// Namespace of the Go driver's containers where cgroups are version 1; they are called `<task>-<allocation>`.
const NAMESPACE_V1: &str = "nomad";

/// The same for version 2, with names like `<allocation>.<task>.scope`.
const NAMESPACE_V2: &str = "nomad.slice";

/// What the Go driver stops every task with, whatever image and job say.
const SIGTERM: i32 = 15;

/// Seconds from the year 1, where Go's clock begins, to 1970.
const YEAR_ONE: i64 = 62_135_596_800;

/// Where the output of a task of the Go driver goes: that driver copied it, since the container writes into pipes of
/// its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GoLogs {
    /// Directory of the allocation, empty if unknown. Not in the state; the handle's task configuration tells.
    pub alloc_dir: PathBuf,
    /// Nomad's pipe for standard output, empty for none.
    pub stdout: PathBuf,
    /// Nomad's pipe for standard error, empty for none.
    pub stderr: PathBuf,
}

/// Reads the state of a version 1 handle.
pub(super) fn decode(bytes: &[u8]) -> Result<HandleState, String> {
    let parsed = value::parse(bytes).map_err(|e| format!("driver_state of version 1: {e}"))?;
    let Some(Value::Map(pairs)) = parsed else {
        return Err("driver_state of version 1: a map is expected".to_owned());
    };
    let field = |name: &str| pairs.iter().find(|(k, _)| k.as_str() == Some(name)).map(|(_, v)| v);
    let text = |name: &str| field(name).and_then(value::text).unwrap_or_default();
    let container = text("ContainerName");
    if container.is_empty() {
        return Err("driver_state of version 1: ContainerName is missing".to_owned());
    }
    let namespace = if container.ends_with(".scope") {
        NAMESPACE_V2
    } else {
        NAMESPACE_V1
    };
    Ok(HandleState {
        container: ContainerId::reported(container),
        namespace: namespace.to_owned(),
        // A time that cannot be read is no reason to lose a task that runs.
        started_at: field("StartedAt").and_then(nanoseconds).unwrap_or_default(),
        stop_signal: SIGTERM,
        logs: None,
        go: Some(GoLogs {
            alloc_dir: PathBuf::new(),
            stdout: PathBuf::from(text("StdoutPath")),
            stderr: PathBuf::from(text("StderrPath")),
        }),
    })
}

/// Nanoseconds since the Unix epoch.
fn nanoseconds(time: &Value) -> Option<i64> {
    let (seconds, nanos) = match time {
        Value::String(text) => go_binary(text.as_bytes())?,
        Value::Binary(bytes) => go_binary(bytes)?,
        Value::Ext(-1, bytes) => timestamp(bytes)?,
        _ => return None,
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(nanos))
}

/// Go's `time.Time.MarshalBinary`: version, seconds since the year 1, nanoseconds, offset of the zone.
fn go_binary(bytes: &[u8]) -> Option<(i64, u32)> {
    let (version, rest) = bytes.split_first()?;
    let (seconds, rest) = rest.split_first_chunk::<8>()?;
    let (nanos, _zone) = rest.split_first_chunk::<4>()?;
    let seconds = i64::from_be_bytes(*seconds).checked_sub(YEAR_ONE)?;
    matches!(version, 1 | 2).then(|| (seconds, u32::from_be_bytes(*nanos)))
}

/// The timestamp extension of msgpack, in its three lengths.
fn timestamp(bytes: &[u8]) -> Option<(i64, u32)> {
    if let Ok(short) = <[u8; 4]>::try_from(bytes) {
        return Some((i64::from(u32::from_be_bytes(short)), 0));
    }
    if let Ok(packed) = <[u8; 8]>::try_from(bytes) {
        let packed = u64::from_be_bytes(packed);
        let seconds = i64::try_from(packed & ((1 << 34) - 1)).ok()?;
        return Some((seconds, u32::try_from(packed >> 34).ok()?));
    }
    let (nanos, rest) = bytes.split_first_chunk::<4>()?;
    let seconds = <[u8; 8]>::try_from(rest).ok()?;
    Some((i64::from_be_bytes(seconds), u32::from_be_bytes(*nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2024-06-13T12:34:56.789 at offset 0, as Go's clock writes it.
    const TIME: [u8; 15] = [1, 0, 0, 0, 0x0e, 0xdd, 0xfc, 0xde, 0x70, 0x2f, 0x07, 0x2f, 0x40, 0, 0];
    const TIME_AT: i64 = 1_718_282_096_789_000_000;

    fn short(text: &str, out: &mut Vec<u8>) {
        out.push(0xa0 | u8::try_from(text.len()).unwrap());
        out.extend(text.as_bytes());
    }

    /// As the Go driver's encoder writes it: sorted keys, `da` from 32 bytes on, the time as a string.
    fn state(container: &str, stdout: &str) -> Vec<u8> {
        let mut out = vec![0x84];
        short("ContainerName", &mut out);
        out.extend([0xda, 0, u8::try_from(container.len()).unwrap()]);
        out.extend(container.as_bytes());
        short("StartedAt", &mut out);
        out.push(0xaf);
        out.extend(TIME);
        short("StderrPath", &mut out);
        short("/dev/null", &mut out);
        short("StdoutPath", &mut out);
        short(stdout, &mut out);
        out
    }

    #[test]
    fn a_state_as_the_go_driver_writes_it_is_read() {
        let name = "web-11111111-2222-3333-4444-555555555555";
        let read = HandleState::decode(1, &state(name, "/a/b.fifo")).unwrap();
        assert_eq!(read.container.as_str(), name);
        assert_eq!(
            (read.namespace.as_str(), read.started_at, read.stop_signal),
            ("nomad", TIME_AT, 15)
        );
        let logs = read.go.unwrap();
        assert_eq!(logs.stdout, PathBuf::from("/a/b.fifo"));
        assert_eq!(logs.stderr, PathBuf::from("/dev/null"));
    }

    #[test]
    fn the_name_tells_the_namespace() {
        for (name, namespace) in [
            ("11111111-2222-3333-4444-555555555555.web.scope", "nomad.slice"),
            ("a.scope-11111111-2222-3333-4444-555555555555", "nomad"),
        ] {
            assert_eq!(HandleState::decode(1, &state(name, "")).unwrap().namespace, namespace);
        }
    }

    #[test]
    fn each_form_of_a_time_is_read_and_none_is_no_fault() {
        let ext = |bytes: &[u8]| Value::Ext(-1, bytes.to_vec());
        assert_eq!(nanoseconds(&Value::Binary(TIME.to_vec())), Some(TIME_AT));
        assert_eq!(nanoseconds(&ext(&[0, 0, 0, 5])), Some(5_000_000_000));
        assert_eq!(
            nanoseconds(&ext(&((7_u64 << 34) | 5).to_be_bytes())),
            Some(5_000_000_007)
        );
        assert_eq!(
            nanoseconds(&ext(&[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5])),
            Some(5_000_000_007)
        );
        assert_eq!(nanoseconds(&Value::Nil), None);
        assert_eq!(nanoseconds(&Value::from("yesterday")), None);
        let mut named = vec![0x81];
        short("ContainerName", &mut named);
        short("x", &mut named);
        assert_eq!(HandleState::decode(1, &named).unwrap().started_at, 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bytes, words) in [
            (&[][..], "map is expected"),
            (&[0x80][..], "ContainerName is missing"),
            (&[0xc1][..], "not msgpack"),
            (&b"{\"container\":\"x\"}"[..], "version 1"),
        ] {
            let error = HandleState::decode(1, bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            HandleState::decode(1, &bytes).ok();
            go_binary(&bytes);
            timestamp(&bytes);
        }
    }
}
