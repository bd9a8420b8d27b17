//! A full disk: containerd's root on a small tmpfs.

use crate::bench::{Bench, group, patience, secs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::PathBuf;
use testhost::census::Census;
use testhost::image::ImageConfig;
use testhost::status::recoverable;
use testhost::task::TaskSpec;
use testhost::within::within;

group!(disk, Bench::new(), {
    a_full_disk_is_named_and_another_try_may_help,
});

/// A tmpfs that is gone when the test is.
pub struct Small(PathBuf);

impl Small {
    pub fn at(path: PathBuf, mebibytes: usize) -> Small {
        let size = std::ffi::CString::new(format!("size={mebibytes}m,mode=711")).expect("no zero byte");
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(size.as_c_str())).expect("mount a tmpfs");
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

const MIB: usize = 1 << 20;

async fn a_full_disk_is_named_and_another_try_may_help(b: &mut Bench) {
    b.rig.containerd.stop().await;
    let root = b.rig.containerd.root().join("root");
    let small = Small::at(root, 8);
    b.rig.containerd.start_again().await.expect("containerd");
    // One does not fit as it comes from the registry, the other does and not once more when it is unpacked.
    for (name, ballast) in [("disk/fetch", 10 * MIB), ("disk/unpack", 3 * MIB)] {
        let image = b
            .rig
            .image(name, &ImageConfig::default().ballast(ballast).salt(name))
            .await
            .expect("image");
        let error = within(patience(), "StartTask", b.rig.start(TaskSpec::new(&image).sh("true")))
            .await
            .err()
            .expect("a full disk");
        assert!(error.message().contains("no space left on device"), "{error:?}");
        assert!(error.message().contains(&image), "{error:?}");
        assert_eq!(recoverable(&error), Some(true), "{error:?}");
        // A snapshot that cannot be removed on a full disk goes with its lease, when containerd collects.
        let left = b.rig.scope().leaks(&Census::default(), secs(10)).await.expect("census");
        assert_eq!(left, Vec::<String>::new());
    }
    // Another try helps when there is room.
    b.rig.containerd.stop().await;
    drop(small);
    b.rig.containerd.start_again().await.expect("containerd");
    assert_eq!(b.run(b.sh("echo room")).await, (0, "room\n".to_owned()));
}
