//! Reads the files that describe CDI devices. What they say is `spec/cdi`'s.

use super::node;
use crate::spec::cdi::SpecFile;
use std::path::Path;

/// Most files of one directory: a bound, not a wish. Vendors have one or two each.
const FILES: usize = 256;
/// Most bytes of one file. That of a node with eight GPUs in seven parts each has some 100 KiB.
const BYTES: u64 = 1024 * 1024;

/// The `.json`, `.yaml` and `.yml` files directly in these directories, by name. A directory that is not there has none.
#[must_use]
pub fn spec_files(dirs: &[String]) -> Vec<SpecFile> {
    let mut out = Vec::new();
    for (priority, dir) in dirs.iter().enumerate() {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| is_spec(p)).collect();
        paths.sort();
        out.extend(paths.into_iter().take(FILES).map(|path| SpecFile {
            text: text(&path),
            path: path.display().to_string(),
            priority,
        }));
    }
    out
}

fn is_spec(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    // A link counts as what it leads to; a pipe would never end.
    matches!(extension, Some("json" | "yaml" | "yml")) && path.is_file()
}

fn text(path: &Path) -> Result<String, String> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > BYTES) {
        return Err(format!("at most {BYTES} bytes are read"));
    }
    node::read_bounded(path, BYTES).map_err(|e| e.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_directories_are_read_in_their_order() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (dir, name) in [
            (&first, "b.yaml"),
            (&first, "a.json"),
            (&first, "x.txt"),
            (&second, "c.yml"),
        ] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        std::fs::create_dir(second.path().join("d.json")).unwrap();
        let big = std::fs::File::create(second.path().join("e.json")).unwrap();
        big.set_len(BYTES + 1).unwrap();
        let dirs = [first.path(), Path::new("/does/not/exist"), second.path()].map(|d| d.display().to_string());
        let files = spec_files(&dirs);
        let seen: Vec<_> = files.iter().map(|f| (f.priority, f.text.clone().ok())).collect();
        let read = |priority, text: &str| (priority, Some(text.to_owned()));
        assert_eq!(
            seen,
            [read(0, "a.json"), read(0, "b.yaml"), read(2, "c.yml"), (2, None)]
        );
    }
}
