//! Files that the kernel itself keeps as they were: fs-verity on a real file system, on a disk that somebody
//! writes to.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use sigil_binary::{Form, How, PrivateKey, XATTR, find, label};
use sigil_harness::{Cluster, Node, Output};

use super::{NOBODYS, POLICY, PYTHON, SECURE, STRICT, prepared};

const BLOCK: usize = 4096;
/// Bytes of a program.
const WHOLE: usize = 4 << 20;

/// An ext4 file system in a file, on a loop device.
struct Disk {
    image: PathBuf,
    device: String,
    at: PathBuf,
}

impl Disk {
    fn mount(node: &Node) -> Result<Self> {
        const BYTES: u64 = 24 << 20;
        let (image, at) = (node.directory().join("image"), node.directory().join("disk"));
        File::create(&image)?.set_len(BYTES)?;
        let path = image.to_str().context("a path")?;
        done(&node.run(&["mkfs.ext4", "-q", "-b", "4096", "-O", "verity,^has_journal", path])?)?;
        let device = done(&node.run(&["losetup", "--find", "--show", path])?)?;
        fs::create_dir(&at)?;
        let disk = Self { image, device, at };
        let data: Option<&str> = None;
        nix::mount::mount(
            Some(&*disk.device),
            &disk.at,
            Some("ext4"),
            nix::mount::MsFlags::empty(),
            data,
        )?;
        Ok(disk)
    }

    /// Everything is on the disk, and nothing in memory.
    fn settle(&self) -> Result<()> {
        nix::unistd::syncfs(File::open(&self.at)?)?;
        OpenOptions::new().write(true).open("/proc/sys/vm/drop_caches")?.write_all(b"3")?;
        Ok(())
    }

    /// Changes a byte of the disk in each block of this content: files that are gone left theirs.
    fn tamper(&self, block: &[u8]) -> Result<()> {
        let bytes = fs::read(&self.image)?;
        let places = bytes.chunks_exact(BLOCK).enumerate().filter(|(_, of)| *of == block);
        let places: Vec<_> = places.map(|(at, _)| at * BLOCK).collect();
        ensure!(!places.is_empty(), "the block is not on the disk");
        let image = OpenOptions::new().read(true).write(true).open(&self.image)?;
        for place in places {
            let (mut byte, at) = ([0], place as u64 + 100);
            image.read_exact_at(&mut byte, at)?;
            image.write_all_at(&[byte[0] ^ 1], at)?;
        }
        image.sync_all()?;
        self.settle()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::process::Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

fn done(output: &Output) -> Result<String> {
    ensure!(output.success(), "{output:?}");
    Ok(output.stdout.trim().to_owned())
}

/// `FS_IOC_ENABLE_VERITY` with SHA-256 and blocks of 4 KiB.
fn enable(node: &Node, path: &Path) -> Result<()> {
    let program = format!(
        "import fcntl, os, struct\n\
         fd = os.open('{}', os.O_RDONLY)\n\
         fcntl.ioctl(fd, 0x40806685, struct.pack('IIIIQIIQ88x', 1, 1, 4096, 0, 0, 0, 0, 0))",
        path.display()
    );
    done(&node.run(&[PYTHON, "-c", &program])?).map(drop)
}

/// What the agent has read since it started, in bytes.
fn read_by(agent: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{agent}/io"))?;
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).context("rchar")?;
    Ok(line.parse()?)
}

#[test]
#[ignore = "needs a kernel with fs-verity and ext4: scripts/test-kernels 6.12"]
fn a_signed_file_with_fs_verity_is_judged_by_its_digest_and_kept_by_the_kernel() -> Result<()> {
    let keys = tempfile::tempdir()?;
    let key = PrivateKey::generate(keys.path().join("key"))?;
    let hex = key.public().map(|byte| format!("{byte:02x}")).concat();
    let mut cluster: Cluster = prepared(&POLICY.replace(NOBODYS, &hex))?;
    let disk = Disk::mount(cluster.node("one")?)?;

    // Two programs of some size, each with a first page of its own: a shell, and much behind it.
    let make = |name: &str, mark: u8| -> Result<PathBuf> {
        let path = disk.at.join(name);
        let mut bytes = fs::read(fs::canonicalize("/bin/sh")?)?;
        bytes.resize(WHOLE, mark);
        // The padding of `e_ident`.
        bytes[15] = mark;
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    let (kept, plain) = (make("kept", 1)?, make("plain", 2)?);
    enable(cluster.node("one")?, &kept)?;
    for path in [&kept, &plain] {
        label(path, SECURE, 1, Some(&key), How::default())?;
    }
    assert_eq!(find(&File::open(&kept)?)?.record.form, Form::Verity);
    assert_eq!(find(&File::open(&plain)?)?.record.form, Form::Content);
    let refused = OpenOptions::new().write(true).open(&kept).err().context("it opens")?;
    assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32), "nobody writes to it");
    disk.settle()?;

    let member = cluster.member("one")?;
    member.config.guard_exec = vec![disk.at.clone()];
    member.start()?;
    let agent = member.agent()?.pid();
    let one = cluster.node("one")?;
    // Runs signed programs alone.
    let runs = |path: &Path| -> Result<Output> {
        one.run_zone(STRICT, &[path.to_str().context("a path")?, "-c", "echo ran"])
    };
    let costs = |path: &Path| -> Result<u64> {
        let before = read_by(agent)?;
        assert_eq!(runs(path)?.stdout.trim(), "ran", "{}", path.display());
        Ok(read_by(agent)? - before)
    };
    // By the kernel's measurement, at first and after all that was known of the file is gone: a new mode
    // moves its change time on. The other file is read whole, each time.
    for mode in [0o755, 0o750] {
        for path in [&kept, &plain] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let (by_digest, by_content) = (costs(&kept)?, costs(&plain)?);
        assert!(
            by_digest < WHOLE as u64 / 8 && by_content >= WHOLE as u64,
            "{by_digest}, {by_content}"
        );
    }

    // The same content: without fs-verity nobody vouches for it, also with the label; with both it is the
    // same program.
    let twin = disk.at.join("twin");
    fs::copy(&kept, &twin)?;
    assert_eq!(runs(&twin)?.code, 126);
    let value = find(&File::open(&kept)?)?.record.emit();
    set_xattr(one, &twin, &value)?;
    assert_eq!(runs(&twin)?.code, 126, "the label speaks of a measurement");
    enable(one, &twin)?;
    assert_eq!(runs(&twin)?.stdout.trim(), "ran");
    let other = make("other", 3)?;
    enable(one, &other)?;
    set_xattr(one, &other, &value)?;
    assert_eq!(runs(&other)?.code, 126, "another content, and that label");
    for path in [&twin, &other] {
        fs::remove_file(path)?;
    }

    // Somebody writes to the disk below the file system. What is read no more is not run any more, whatever
    // is remembered; a file without fs-verity would.
    let mut first = vec![0; BLOCK];
    File::open(&kept)?.read_exact_at(&mut first, 0)?;
    fs::remove_file(&plain)?;
    disk.settle()?;
    disk.tamper(&first)?;
    let error = fs::read(&kept).err().context("the tampered file is read")?;
    assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32));
    let output = runs(&kept)?;
    assert!(output.stdout.is_empty() && !output.success(), "{output:?}");
    Ok(())
}

fn set_xattr(node: &Node, path: &Path, value: &[u8]) -> Result<()> {
    let hex: Vec<_> = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    let program =
        format!("import os\nos.setxattr('{}', '{XATTR}', bytes.fromhex('{hex}'))", path.display());
    done(&node.run(&[PYTHON, "-c", &program])?).map(drop)
}
