//! Versions as containerd tells them, such as `v2.4.2` and `1.6.20~ds1`.

/// The first two numbers of a version. `None` for what has no such numbers: a build of one's own may be called anything.
#[must_use]
pub fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '~', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
