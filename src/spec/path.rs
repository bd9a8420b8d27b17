//! Paths as texts: what a path means without looking at any file.

/// An absolute path without `.`, empty parts and a slash at the end, so that it can be compared. `None` for a relative path,
/// the root itself, and one with `..` or NUL: what is allowed by the text of a path must not lead away from it.
pub(super) fn clean(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let fine = path.starts_with('/') && !parts.is_empty() && !parts.contains(&"..") && !path.contains('\0');
    fine.then(|| format!("/{}", parts.join("/")))
}

/// True if a clean path is a directory or beneath it.
pub(super) fn inside(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_path_is_absolute_and_leads_nowhere_else() {
        for (path, want) in [
            ("/a/b", Some("/a/b")),
            ("//a/./b/", Some("/a/b")),
            ("/", None),
            ("/.", None),
            ("", None),
            ("a", None),
            ("/a/../b", None),
            ("/a\0", None),
        ] {
            assert_eq!(clean(path).as_deref(), want, "{path:?}");
        }
    }

    #[test]
    fn names_that_begin_alike_are_not_inside() {
        assert!(inside("/dev", "/dev") && inside("/dev/null", "/dev"));
        assert!(!inside("/device", "/dev") && !inside("/", "/dev"));
    }
}
