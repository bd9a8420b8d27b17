//! How full a file system is.

use super::error::HostError;
use std::path::Path;

/// Bytes that are used in the file system of a path, and bytes that are left for others than root, as `df` counts them.
///
/// # Errors
/// If the path cannot be looked at.
pub fn used_and_available(path: &Path) -> Result<(u64, u64), HostError> {
    let found = rustix::fs::statvfs(path).map_err(|e| HostError::from_errno("room on the disk", path, e))?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok((
        bytes(found.f_blocks.saturating_sub(found.f_bfree)),
        bytes(found.f_bavail),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_some_room_and_what_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (used, available) = used_and_available(dir.path()).unwrap();
        assert!(used.saturating_add(available) > 0);
        let error = used_and_available(&dir.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
