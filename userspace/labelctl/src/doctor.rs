//! `labelctl doctor`: what of the kernel is there, which backend that gives, and what is missing costs.
//!
//! Reads files only, so that it needs no privilege and no agent; whether the kernel then takes every program
//! is known when the agent has tried, and said here where one runs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use sigil_control::{Reply, Request};

use crate::agent::ask;
use crate::cli::{Format, Global};
use crate::output::{self, Answer};

#[derive(clap::Args)]
pub(crate) struct Args {}

/// A feature of the kernel.
#[derive(Debug, Serialize)]
struct Finding {
    feature: &'static str,
    there: bool,
    /// Without it the agent does not start.
    needed: bool,
    /// What goes without it.
    costs: &'static str,
    /// How to get it.
    remedy: String,
}

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    features: Vec<Finding>,
    /// What the kernel's features give.
    backend: &'static str,
    /// What the agent has in force, where one runs, and why.
    in_force: Option<String>,
    /// What is not as the agent's policy wants it.
    problems: Vec<String>,
}

pub(crate) fn run(_args: &Args, global: &Global) -> Result<Answer> {
    let mut report = examine(Path::new("/"))?;
    if let Ok(Reply::Status(status)) = ask(&global.socket, &Request::Status) {
        report.problems = status.problems;
        let why = &status.without_lsm;
        report.in_force =
            Some(if why.is_empty() { status.backend } else { format!("fanotify: {why}") });
    }
    if global.output == Format::Table {
        print(&report, &mut io::stdout().lock())?;
    } else {
        output::json(global.output, &report)?;
    }
    Ok(report.features.iter().all(|of| of.there || !of.needed).into())
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<9}Linux {}", "kernel", report.kernel)?;
    for of in &report.features {
        if of.there {
            writeln!(out, "{:<9}{}", "ok", of.feature)?;
        } else {
            let state = if of.needed { "MISSING" } else { "missing" };
            writeln!(out, "{state:<9}{}: {}; {}", of.feature, of.costs, of.remedy)?;
        }
    }
    writeln!(out, "{:<9}{}", "backend", report.backend)?;
    if let Some(in_force) = &report.in_force {
        writeln!(out, "{:<9}{in_force}", "in force")?;
    }
    for problem in &report.problems {
        writeln!(out, "{:<9}{problem}", "problem")?;
    }
    Ok(())
}

/// Looks at the kernel whose `/proc` and `/sys` lie under `root`.
///
/// # Errors
/// Where there is no `/proc` to look at.
fn examine(root: &Path) -> Result<Report> {
    let kernel = fs::read_to_string(root.join("proc/sys/kernel/osrelease"))
        .context("/proc/sys/kernel/osrelease: mount /proc")?;
    let types = Types(fs::read(root.join("sys/kernel/btf/vmlinux")).unwrap_or_default());
    let known = types.names();
    let lsm = lsm(root, known.contains(&b"bpf_lsm_task_alloc"[..]));
    let refuses = lsm.is_ok();
    let mut features = needed_of(root, &known);
    let ready = features.iter().all(|of| of.there);
    features.extend(useful_of(root, &known, lsm));
    Ok(Report {
        kernel: kernel.trim().to_owned(),
        features,
        backend: match (ready, refuses) {
            (false, _) => "none",
            (true, true) => "lsm",
            (true, false) => "fanotify",
        },
        in_force: None,
        problems: Vec::new(),
    })
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_default()
}

fn newer(version: &str) -> String {
    format!("boot Linux {version} or later")
}

/// What `sigild` does not start without.
fn needed_of(root: &Path, known: &BTreeSet<&[u8]>) -> Vec<Finding> {
    let has = |name: &str| known.contains(name.as_bytes());
    let read = |path| read(root, path);
    let needed = |feature, there, remedy: &str| Finding {
        feature,
        there,
        needed: true,
        costs: "sigild does not start",
        remedy: remedy.to_owned(),
    };
    vec![
        needed("types of the kernel (BTF)", !known.is_empty(), "CONFIG_DEBUG_INFO_BTF=y"),
        needed(
            "file system of pins (bpffs)",
            read("proc/filesystems").lines().any(|line| line.trim_end().ends_with("\tbpf")),
            "CONFIG_BPF_SYSCALL=y",
        ),
        needed(
            "programs on tracepoints",
            has("btf_trace_sched_process_exec"),
            "CONFIG_BPF_EVENTS=y",
        ),
        needed("programs on control groups", has("cgroup_bpf_link_attach"), "CONFIG_CGROUP_BPF=y"),
        needed(
            "control groups (cgroup2)",
            read("proc/self/mountinfo").contains(" - cgroup2 "),
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
        needed(
            "reading kernel memory",
            !read("sys/kernel/security/lockdown").contains("[confidentiality]"),
            "boot without lockdown=confidentiality",
        ),
    ]
}

/// What goes without, at a price.
fn useful_of(root: &Path, known: &BTreeSet<&[u8]>, lsm: Result<(), String>) -> Vec<Finding> {
    let has = |name: &str| known.contains(name.as_bytes());
    let useful = |feature, there, costs, remedy: &str| Finding {
        feature,
        there,
        needed: false,
        costs,
        remedy: remedy.to_owned(),
    };
    vec![
        Finding {
            feature: "BPF LSM",
            there: lsm.is_ok(),
            needed: false,
            costs: "forks are killed and not refused, zones may trace and signal each other, a passed \
                    socket carries a first write, zones that demand signed code run nothing",
            remedy: lsm.err().unwrap_or_default(),
        },
        useful(
            "TCX links",
            has("BPF_TCX_INGRESS"),
            "TC programs are clsact filters (kernel module sch_ingress), about 0.1 µs slower a packet",
            &newer("6.6"),
        ),
        useful(
            "exec gate (fanotify)",
            root.join("proc/sys/fs/fanotify").exists(),
            "every program counts as unsigned",
            "CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y",
        ),
        useful(
            "use of sockets (sock_send_length)",
            has("btf_trace_sock_send_length"),
            "with fanotify, a socket in a stranger's hands is not noticed unless an address is named",
            &newer("6.3"),
        ),
        useful(
            "sendfile and splice that ask as sends do",
            has("splice_to_socket"),
            "a stranger's sendfile and splice into a socket are not refused",
            &newer("6.5"),
        ),
        useful(
            "TCP before it takes data (tcp_sendmsg_locked)",
            has("btf_trace_tcp_sendmsg_locked"),
            "with fanotify, a stranger's first write to a TCP socket is sent",
            &newer("6.16"),
        ),
        useful(
            "machine code (BPF JIT)",
            !matches!(read(root, "proc/sys/net/core/bpf_jit_enable").trim(), "" | "0"),
            "every packet costs several times as much",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        useful(
            "fs-verity",
            has("fsverity_get_digest"),
            "a program's file is read whole when it is judged",
            "CONFIG_FS_VERITY=y",
        ),
    ]
}

/// Whether the kernel has LSM programs, and asks them; what to do about it.
fn lsm(root: &Path, built_in: bool) -> Result<(), String> {
    if !built_in {
        return Err("CONFIG_BPF_LSM=y".to_owned());
    }
    match fs::read_to_string(root.join("sys/kernel/security/lsm")) {
        Err(_) => Err("mount -t securityfs none /sys/kernel/security".to_owned()),
        Ok(modules) if modules.trim().split(',').any(|module| module == "bpf") => Ok(()),
        Ok(modules) => Err(format!("boot with lsm={},bpf", modules.trim())),
    }
}

/// The kernel's types, `struct btf_header` first.
struct Types(Vec<u8>);

impl Types {
    /// Names of types, functions and constants; none where this is no BTF.
    fn names(&self) -> BTreeSet<&[u8]> {
        let strings = || {
            let magic = self.0.get(..2)?;
            let [header, at, length] = [4, 16, 20].map(|at| self.word(at));
            let start = header?.checked_add(at?)?;
            (magic == 0xeb9f_u16.to_ne_bytes()).then_some(())?;
            self.0.get(start..start.checked_add(length?)?)
        };
        strings().unwrap_or_default().split(|byte| *byte == 0).filter(|s| !s.is_empty()).collect()
    }

    fn word(&self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(bytes)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 10] = [
        "BPF_TCX_INGRESS",
        "btf_trace_sched_process_exec",
        "cgroup_bpf_link_attach",
        "bpf_lsm_task_alloc",
        "btf_trace_sock_send_length",
        "splice_to_socket",
        "btf_trace_tcp_sendmsg_locked",
        "fsverity_get_digest",
        "a",
        "b",
    ];

    fn btf(names: &[&str]) -> Vec<u8> {
        let strings = format!("\0{}\0", names.join("\0"));
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let length = u32::try_from(strings.len()).unwrap();
        for word in [24, 0, 0, 0, length] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(strings.into_bytes());
        bytes
    }

    fn kernel(names: &[&str], lsm: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("proc/sys/kernel/osrelease", b"6.12.1\n");
        put("proc/filesystems", b"nodev\tbpf\n\text4\n");
        put("proc/self/mountinfo", b"31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        put("proc/sys/net/core/bpf_jit_enable", b"1\n");
        put("proc/sys/fs/fanotify/max_user_groups", b"128\n");
        put("sys/kernel/btf/vmlinux", &btf(names));
        if let Some(lsm) = lsm {
            put("sys/kernel/security/lsm", lsm.as_bytes());
        }
        root
    }

    fn shown(root: &Path) -> String {
        let mut out = Vec::new();
        print(&examine(root).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_kernel_with_everything() {
        let root = kernel(&ALL, Some("lockdown,capability,bpf"));
        let said = shown(root.path());
        assert!(!said.contains("issing") && !said.contains("MISSING"), "{said}");
        assert!(said.ends_with("backend  lsm\n"), "{said}");
    }

    #[test]
    fn each_missing_feature_has_its_line_its_price_and_its_remedy() {
        let root = kernel(&ALL, Some("lockdown,capability"));
        let said = shown(root.path());
        assert!(said.contains("missing  BPF LSM: forks are killed"), "{said}");
        assert!(said.contains("boot with lsm=lockdown,capability,bpf\n"), "{said}");
        assert!(said.ends_with("backend  fanotify\n"), "{said}");
        let hidden = shown(kernel(&ALL, None).path());
        assert!(hidden.contains("mount -t securityfs"), "{hidden}");
        let old: Vec<_> = ALL.into_iter().filter(|name| !name.contains("TCX")).collect();
        let said = shown(kernel(&old, Some("bpf")).path());
        assert!(
            said.contains("missing  TCX links: TC programs are clsact filters")
                && said.contains("boot Linux 6.6"),
            "{said}"
        );
        assert!(said.ends_with("backend  lsm\n"), "{said}");
        let old: Vec<_> = ALL.into_iter().filter(|name| !name.contains("exec")).collect();
        let said = shown(kernel(&old, Some("bpf")).path());
        assert!(said.contains("MISSING  programs on tracepoints: sigild does not start"), "{said}");
        assert!(said.ends_with("backend  none\n"), "{said}");
    }

    #[test]
    fn garbage_is_no_kernel_with_types() {
        for bytes in [&b""[..], b"\x9f\xeb", &[0xff; 64], &btf(&ALL)[..40]] {
            assert!(Types(bytes.to_vec()).names().is_empty());
        }
        assert!(examine(tempfile::tempdir().unwrap().path()).is_err(), "no /proc");
    }

    #[test]
    fn this_kernel_is_one_that_serves() {
        let report = examine(Path::new("/")).unwrap();
        assert_ne!(report.backend, "none", "{report:?}");
    }
}
