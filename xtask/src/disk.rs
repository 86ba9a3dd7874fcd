//! A file system on a loop device whose power can be cut.
//!
//! `xfs_io -x -c shutdown` makes ext4 drop everything that was not written: what was dirty in the page cache and what was not
//! committed to its journal. After an unmount and a mount, which replays the journal, the files are as after a power cut.

use crate::{Outcome, ctx};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image; dropped, it is unmounted and its loop device freed.
#[derive(Debug)]
pub struct Disk {
    device: String,
    mount: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes and mounts an ext4 image of `mib` in `dir`. The error says why this machine does not allow it.
    pub fn new(dir: &Path, mib: u64) -> Outcome<Disk> {
        let image = dir.join("image");
        let mount = dir.join("mnt");
        ctx(fs::create_dir_all(&mount), mount.display())?;
        ctx(
            File::create(&image).and_then(|file| file.set_len(mib << 20)),
            image.display(),
        )?;
        let image = image.to_string_lossy().into_owned();
        tool("mkfs.ext4", &["-qF", &image])?;
        tool("xfs_io", &["-V"])?;
        let device = tool("losetup", &["-f", "--show", &image])?
            .trim()
            .to_owned();
        let mut disk = Disk {
            device,
            mount,
            mounted: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power. Whoever has files open gets errors from now on.
    pub fn cut(&self) -> Outcome {
        tool(
            "xfs_io",
            &["-x", "-c", "shutdown", &self.mount.to_string_lossy()],
        )
        .map(drop)
    }

    /// Mounts it; the journal is replayed.
    pub fn mount(&mut self) -> Outcome {
        tool(
            "mount",
            &["-t", "ext4", &self.device, &self.mount.to_string_lossy()],
        )?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it; nobody may have files open.
    pub fn unmount(&mut self) -> Outcome {
        tool("umount", &[&self.mount.to_string_lossy()])?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After a failure there is nothing better to do than to try the rest.
        if self.mounted {
            let _ = tool("umount", &["-l", &self.mount.to_string_lossy()]);
        }
        let _ = tool("losetup", &["-d", &self.device]);
    }
}

fn tool(name: &str, args: &[&str]) -> Outcome<String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = ctx(
        Command::new(name).args(args).env("PATH", path).output(),
        name,
    )?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!(
            "{name} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}
