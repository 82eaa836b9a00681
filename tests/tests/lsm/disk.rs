//! A disk over TCP (`NVMe`), whose driver sends in whatever process reads or writes it: that takes its socket over
//! from nobody.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node, PATIENCE, until};

use crate::{POLICY, SECURE, SINGLE, USER, python};

/// A host beyond the cluster, which `user` may call.
const STORAGE: &str = "
  <zone><ScID> 90 </ScID><name> storage </name></zone>
  <perimeter><address> 10.77.0.90/32 </address><SnID> 900 </SnID><ScID> 90 </ScID></perimeter>
  <SOCKET_class_rule>
    <sSnID> one </sSnID> <sScID> user </sScID> <tSnID> 900 </tSnID> <tScID> storage </tScID>
    <allow> CREATE </allow>
  </SOCKET_class_rule>
  <signer>";

const TARGET: &str = "/sys/kernel/config/nvmet";

/// A disk that the kernel serves at a host's port 4420, and whoever uses it. Gone on drop.
struct Disk {
    name: String,
    address: String,
}

impl Disk {
    fn serve(host: &Node) -> Result<Self> {
        let disk = Self { name: host.id(), address: host.address().to_string() };
        let [subsystem, space, port] = disk.directories();
        let file = host.directory().join("disk");
        fs::File::create(&file)?.set_len(1 << 20)?;
        let set = |directory: &Path, attribute: &str, value: &str| {
            let path = directory.join(attribute);
            fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))
        };
        for directory in [&subsystem, &space, &port] {
            fs::create_dir(directory).with_context(|| directory.display().to_string())?;
        }
        set(&subsystem, "attr_allow_any_host", "1")?;
        set(&space, "device_path", file.to_str().context("a path")?)?;
        set(&space, "buffered_io", "1")?;
        set(&space, "enable", "1")?;
        set(&port, "addr_trtype", "tcp")?;
        set(&port, "addr_adrfam", "ipv4")?;
        set(&port, "addr_traddr", &disk.address)?;
        set(&port, "addr_trsvcid", "4420")?;
        // It listens in the network of whoever says so.
        let link = disk.link();
        host.netns().enter(|| Ok(symlink(&subsystem, &link)?))?;
        Ok(disk)
    }

    /// Of the disk, of what is on it, and of the way to it, in the order in which they are made.
    fn directories(&self) -> [PathBuf; 3] {
        let [subsystems, ports] = ["subsystems", "ports"].map(|of| Path::new(TARGET).join(of));
        let subsystem = subsystems.join(&self.name);
        let space = subsystem.join("namespaces/1");
        [subsystem, space, ports.join("1")]
    }

    fn link(&self) -> PathBuf {
        let [.., port] = self.directories();
        port.join("subsystems").join(&self.name)
    }

    /// Connects the node, or a zone of it, to the disk: what came of it. With the first connection that breaks the
    /// disk is gone.
    fn connect(&self, node: &Node, zone: Option<u32>) -> Result<String> {
        let Self { name, address } = self;
        let options = format!(
            "transport=tcp,traddr={address},trsvcid=4420,nqn={name},nr_io_queues=1,ctrl_loss_tmo=0"
        );
        let said = python(
            node,
            zone,
            &format!(
                "fabrics = os.open('/dev/nvme-fabrics', os.O_RDWR)\n\
                 print(attempt(lambda: os.write(fabrics, b'{options}')))"
            ),
        )?;
        if said == "ok" {
            until("disk", PATIENCE, || Ok(Path::new("/dev/nvme0n1").exists().then_some(())))?;
            // With a scheduler, threads of the kernel would send.
            let schedulers = disks().into_iter().map(|disk| disk.join("queue/scheduler"));
            for scheduler in schedulers.filter(|path| path.exists()) {
                fs::write(scheduler, "none")?;
            }
        }
        Ok(said)
    }

    /// Ends the connection.
    fn disconnect() -> Result<()> {
        for controller in entries("/sys/class/nvme", "nvme") {
            fs::write(controller.join("delete_controller"), "1")?;
        }
        until("end of the disk", PATIENCE, || Ok(disks().is_empty().then_some(())))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let [subsystem, space, port] = self.directories();
        let gone = Self::disconnect().and_then(|()| {
            fs::remove_file(self.link())?;
            Ok([port, space, subsystem].iter().try_for_each(fs::remove_dir)?)
        });
        if let Err(error) = gone {
            eprintln!("cannot remove the disk: {error:#}");
        }
    }
}

/// The disks of this kind, and the ways to them.
fn disks() -> Vec<PathBuf> {
    entries("/sys/block", "nvme")
}

fn entries(directory: &str, prefix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    let named = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    };
    all.map(|entry| entry.path()).filter(named).collect()
}

/// Past the kernel's cache, a process of a zone reads a number and writes the next one.
fn count(node: &Node, zone: Option<u32>) -> Result<String> {
    let program = "import mmap\n\
         page = mmap.mmap(-1, 4096)\n\
         disk = os.open('/dev/nvme0n1', os.O_RDWR | os.O_DIRECT)\n\
         def count():\n\
         \x20   os.preadv(disk, [page], 0); print(page[0])\n\
         \x20   page[0] += 1; os.pwritev(disk, [page], 0)\n\
         print(attempt(count))";
    python(node, zone, program)
}

fn serves_every_zone(backend: &str) -> Result<()> {
    let policy = POLICY.replacen("<signer>", STORAGE, 1);
    let mut cluster = Cluster::prepare("disk", &Setting { suite: None, ..Setting::of(&policy) })?;
    let host = cluster.lab.node("storage", 90)?;
    let member = cluster.member("one")?;
    member.config.backend = backend.into();
    member.start()?;
    let one = cluster.node("one")?;
    let disk = Disk::serve(&host)?;
    assert_eq!(disk.connect(one, None)?, "ok");
    let users = [Some(SECURE), Some(SINGLE), Some(SECURE)];
    for (number, zone) in users.into_iter().enumerate() {
        assert_eq!(count(one, zone)?, format!("{number}\nok"), "{zone:?}");
    }
    // A zone's own: it reaches what the zone may, and its answers come to threads of the kernel.
    Disk::disconnect()?;
    assert_ne!(disk.connect(one, Some(SECURE))?, "ok");
    assert_eq!(one.stats()?.dropped("socket", "no-rule"), 1);
    assert_eq!(disk.connect(one, Some(USER))?, "ok");
    assert_eq!(count(one, Some(USER))?, format!("{}\nok", users.len()));
    assert_eq!(one.stats()?.dropped("socket", "socket-label"), 0);
    one.stats()?.balanced()
}

/// Beside either backend; one after the other, for there is one such disk in the kernel.
#[test]
#[ignore = "needs a kernel that runs LSM programs, and NVMe over TCP"]
fn a_disk_over_tcp_serves_every_zone() -> Result<()> {
    ["lsm", "fanotify"]
        .into_iter()
        .try_for_each(|backend| serves_every_zone(backend).context(backend))
}
