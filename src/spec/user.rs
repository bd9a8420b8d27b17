//! Who the first process runs as: the job's `user`, else the image's, resolved in the image's passwd and group files.
//!
//! As in Dockerfile's USER and runc's `GetExecUser`: a name or number, optionally with `:group`; with an explicit
//! group the process has that group only, without one it has the user's groups. The Go driver lost supplementary
//! groups. `nomad-<uid>` (Nomad's dynamic users) need not be in the image.

use super::error::SpecError;
use super::image::ImageFacts;
use super::task::TaskSpec;
use serde_json::{Value, json};

/// Greatest user or group id, runc's. Beyond it lies -1, which means "no change", and above 32 bits a number may come out
/// as another one, even as root (CVE-2024-40635).
const ID_MAX: u32 = i32::MAX.unsigned_abs();

/// A user or group id in decimal digits.
pub(super) fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n <= ID_MAX)
}

/// Numbers of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Primary group first (left out, it could be dropped by a set-group-id program: CVE-2023-25173).
    pub(super) groups: Vec<u32>,
}

impl User {
    pub(super) fn json(&self) -> Value {
        json!({"uid": self.uid, "gid": self.gid, "additionalGids": self.groups})
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut f = line.split(':');
        let (name, _, uid, gid) = (f.next()?, f.next()?, f.next()?, f.next()?);
        Some(Passwd {
            name,
            uid: id(uid.trim())?,
            gid: id(gid.trim())?,
        })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut f = line.split(':');
        let (name, _, gid) = (f.next()?, f.next()?, f.next()?);
        Some(Group {
            name,
            gid: id(gid.trim())?,
            members: f.next().unwrap_or_default(),
        })
    })
}

/// Resolves the user of a task.
pub(super) fn resolve(task: &TaskSpec, image: &ImageFacts) -> Result<User, SpecError> {
    let (wanted, origin) = match task.user.trim() {
        "" => (image.user.trim(), "the image asks for it as USER"),
        user => (user, "the job asks for it as user"),
    };
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (wanted, None),
    };
    let number = if user.is_empty() { Some(0) } else { id(user) };
    let known = passwd(&image.passwd).find(|p| number.map_or(p.name == user, |uid| p.uid == uid));
    let (name, uid, gid) = match (known, number) {
        (Some(p), _) => (p.name, p.uid, p.gid),
        (None, Some(uid)) => ("", uid, 0),
        (None, None) if user == "root" => ("root", 0, 0),
        (None, None) => match user.strip_prefix("nomad-").and_then(id) {
            Some(uid) => ("", uid, uid),
            None => {
                return Err(SpecError::option(
                    "user",
                    wanted,
                    format!(
                        "no user {user:?} in the image's /etc/passwd; {origin}; a name in that file or a number is expected"
                    ),
                ));
            }
        },
    };
    if let Some(group) = group {
        let gid = group_id(image, group)
            .ok_or_else(|| SpecError::option("user", wanted, format!("no group {group:?} in the image's /etc/group; {origin}; a name in that file or a number is expected")))?;
        return Ok(User {
            uid,
            gid,
            groups: with_added(task, image, vec![gid])?,
        });
    }
    let mut all = vec![gid];
    for g in groups(&image.group) {
        if !name.is_empty() && g.members.split(',').any(|m| m.trim() == name) && !all.contains(&g.gid) {
            all.push(g.gid);
        }
    }
    let groups = with_added(task, image, all)?;
    Ok(User { uid, gid, groups })
}

/// A number is that number, whatever name an image gives to another: as for users, and as containerd's `oci.WithUser` and
/// Docker have it.
fn group_id(image: &ImageFacts, group: &str) -> Option<u32> {
    id(group).or_else(|| groups(&image.group).find(|g| g.name == group).map(|g| g.gid))
}

/// Which of these names or numbers stands for a group.
pub(super) fn resolves_to<'a>(image: &ImageFacts, wanted: &'a [String], gid: u32) -> Option<&'a str> {
    let mut names = wanted.iter().map(|name| name.trim());
    names.find(|name| group_id(image, name) == Some(gid))
}

/// The groups together with those of `group_add`.
fn with_added(task: &TaskSpec, image: &ImageFacts, mut all: Vec<u32>) -> Result<Vec<u32>, SpecError> {
    for wanted in &task.options.group_add {
        let name = wanted.trim();
        let Some(gid) = Some(name).filter(|n| !n.is_empty()).and_then(|n| group_id(image, n)) else {
            let text = "a name in the image's /etc/group or a number is expected";
            return Err(SpecError::option("group_add", wanted, text));
        };
        if !all.contains(&gid) {
            all.push(gid);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn who(job: &str, image: &str) -> Result<(u32, u32, Vec<u32>), String> {
        let facts = ImageFacts {
            user: image.to_owned(),
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1001::/:\nnobody:x:65534:65534::/:\n".to_owned(),
            group: "root:x:0:\naudio:x:29:app,nobody\nvideo:x:44:nobody, app\nstaff:x:50:\n".to_owned(),
            ..ImageFacts::default()
        };
        let task = TaskSpec {
            user: job.to_owned(),
            ..TaskSpec::default()
        };
        resolve(&task, &facts)
            .map(|u| (u.uid, u.gid, u.groups))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn users_resolve_as_in_a_dockerfile() {
        for (job, image, want) in [
            ("", "", (0, 0, vec![0])),
            ("", "app", (1000, 1001, vec![1001, 29, 44])),
            ("nobody", "app", (65534, 65534, vec![65534, 29, 44])),
            ("1000", "", (1000, 1001, vec![1001, 29, 44])),
            ("4242", "", (4242, 0, vec![0])),
            ("4242:77", "", (4242, 77, vec![77])),
            ("app:staff", "", (1000, 50, vec![50])),
            ("app:", "", (1000, 1001, vec![1001, 29, 44])),
            (":staff", "", (0, 50, vec![50])),
            ("nomad-80000", "", (80000, 80000, vec![80000])),
        ] {
            assert_eq!(who(job, image), Ok(want), "job {job:?} image {image:?}");
        }
    }

    /// An image must not turn the number that a job asks for into root.
    #[test]
    fn a_number_is_that_number_whatever_names_the_image_has() {
        let facts = ImageFacts {
            passwd: "1000:x:0:0::/:\n".to_owned(),
            group: "1000:x:0:\n29:x:0:\n".to_owned(),
            ..ImageFacts::default()
        };
        for user in ["1000", "1000:1000"] {
            let mut task = TaskSpec {
                user: user.to_owned(),
                ..TaskSpec::default()
            };
            task.options.group_add = vec!["29".to_owned()];
            let found = resolve(&task, &facts).unwrap();
            assert_eq!(found.uid, 1000, "{user}");
            assert!(found.groups.contains(&29), "{found:?}");
        }
        let task = TaskSpec {
            user: "1000:1000".to_owned(),
            ..TaskSpec::default()
        };
        assert_eq!(resolve(&task, &facts).unwrap().gid, 1000);
    }

    #[test]
    fn unknown_names_are_refused_by_name_and_origin() {
        assert!(who("ghost", "").unwrap_err().contains("no user \"ghost\""));
        assert!(who("", "ghost").unwrap_err().contains("the image asks"));
        assert!(who("app:ghosts", "").unwrap_err().contains("no group \"ghosts\""));
        assert!(who("-1", "").is_err());
        assert!(who("4294967296", "").is_err());
    }

    #[test]
    fn root_needs_no_passwd_file() {
        let task = TaskSpec {
            user: "root".to_owned(),
            ..TaskSpec::default()
        };
        assert_eq!(resolve(&task, &ImageFacts::default()).unwrap().uid, 0);
    }

    /// CVE-2024-40635: a number too great for the kernel must not become another user.
    #[test]
    fn numbers_beyond_the_greatest_id_are_refused() {
        for user in [
            "2147483648",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "+5",
            "-0",
            "0x0",
            "1 2",
        ] {
            assert!(who(user, "").is_err(), "{user}");
            assert!(who(&format!("0:{user}"), "").is_err(), "group {user}");
            assert!(who("", user).is_err(), "image {user}");
        }
        assert_eq!(who("2147483647:2147483647", "").unwrap().0, ID_MAX);
        let odd = ImageFacts {
            passwd: "app:x:4294967296:0::/:\nnone:x:4294967295:4294967295::/:\n".to_owned(),
            ..ImageFacts::default()
        };
        for user in ["app", "none"] {
            let task = TaskSpec {
                user: user.to_owned(),
                ..TaskSpec::default()
            };
            assert!(resolve(&task, &odd).is_err(), "{user}");
        }
    }

    #[test]
    fn added_groups_come_last_and_once() {
        let with = |user: &str, add: &[&str]| {
            let mut task = TaskSpec {
                user: user.to_owned(),
                ..TaskSpec::default()
            };
            task.options.group_add = add.iter().map(|s| (*s).to_owned()).collect();
            let image = ImageFacts {
                passwd: "app:x:1000:1001::/:\n".to_owned(),
                group: "audio:x:29:app\nstaff:x:50:\n".to_owned(),
                ..ImageFacts::default()
            };
            resolve(&task, &image).map(|u| u.groups).map_err(|e| e.to_string())
        };
        assert_eq!(with("app", &["staff", "29", "7", "staff"]), Ok(vec![1001, 29, 50, 7]));
        assert_eq!(with("app:0", &["staff"]), Ok(vec![0, 50]));
        for bad in ["ghosts", "", "-1", "4294967295"] {
            assert!(with("app", &[bad]).unwrap_err().contains("group_add"), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_files_and_any_user_are_resolved_or_refused(
            passwd in "([a-z0-9:\\-\\n ]|root|4294967296){0,60}",
            group in "([a-z0-9:,\\n ]|\\PC){0,60}",
            user in "([a-z0-9:\\-]|\\PC){0,12}",
            add in any::<String>(),
        ) {
            let image = ImageFacts { passwd, group, user: user.clone(), ..ImageFacts::default() };
            let mut task = TaskSpec { user, ..TaskSpec::default() };
            task.options.group_add = vec![add];
            if let Ok(found) = resolve(&task, &image) {
                prop_assert!(found.uid <= ID_MAX && found.groups.contains(&found.gid));
                prop_assert!(found.groups.iter().all(|g| *g <= ID_MAX));
            }
        }
    }
}
