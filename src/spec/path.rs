//! Paths as texts: what a path means without looking at any file.

/// Most bytes of one name, and of a path without its end (`NAME_MAX`, `PATH_MAX`).
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4095;

/// An absolute path without `.`, empty parts and a slash at the end, so that it can be compared. `None` for a relative path,
/// the root itself, one that no kernel takes for its length, and one with `..` or NUL: what is allowed by the text of a path must not lead away from it.
pub(super) fn clean(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let fine = path.starts_with('/') && !parts.is_empty() && !parts.contains(&"..") && !path.contains('\0');
    let short = path.len() <= PATH_MAX && parts.iter().all(|part| part.len() <= NAME_MAX);
    (fine && short).then(|| format!("/{}", parts.join("/")))
}

/// True if a clean path is a directory or beneath it.
pub(super) fn inside(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// True if an absolute path is in a directory, where `..` counts as what is before it is no link.
pub(super) fn leads_into(path: &str, dir: &str) -> bool {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    inside(&format!("/{}", parts.join("/")), dir)
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
        let name = |n| format!("/{}", "x".repeat(n));
        assert!(clean(&name(NAME_MAX)).is_some() && clean(&name(NAME_MAX + 1)).is_none());
        assert!(clean(&name(100).repeat(40)).is_some() && clean(&name(100).repeat(41)).is_none());
    }

    #[test]
    fn names_that_begin_alike_are_not_inside() {
        assert!(inside("/dev", "/dev") && inside("/dev/null", "/dev"));
        assert!(!inside("/device", "/dev") && !inside("/", "/dev"));
    }

    #[test]
    fn a_path_leads_where_its_dots_say() {
        for (path, into) in [
            ("/proc", true),
            ("//x/.././proc/1", true),
            ("/../proc/", true),
            ("/proc/..", false),
            ("/proc/../srv", false),
            ("/process", false),
            ("/", false),
        ] {
            assert_eq!(leads_into(path, "/proc"), into, "{path}");
        }
    }
}
