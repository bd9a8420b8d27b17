//! The directory of a rig, swept away at the end.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::alloc::random_hex;
use crate::sweep;

/// Owns a directory. Dropping it sweeps it: processes, mounts, files.
pub struct Home {
    path: PathBuf,
    namespace: String,
}

impl Home {
    /// A fresh short directory under `TMPDIR`, or `/tmp`.
    pub fn fresh(namespace: &str) -> Result<Home> {
        Home::at(std::env::temp_dir().join(format!("cdt-{}", random_hex(4))), namespace)
    }

    /// A given directory; whatever an earlier run left there is swept away first.
    pub fn at(path: PathBuf, namespace: &str) -> Result<Home> {
        if path.exists() {
            sweep::sweep(&path);
        }
        // Not for everyone to write to: containers' users only pass through.
        for sub in ["", "alloc", "tmp"] {
            std::fs::create_dir_all(path.join(sub)).with_context(|| format!("create {}", path.display()))?;
            std::fs::set_permissions(path.join(sub), std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(Home {
            path,
            namespace: namespace.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        sweep::sweep(&self.path);
        sweep::forget_namespace(&self.namespace);
    }
}
