//! Tables of what the kernel has beside Sigil.

use std::fmt::Write as _;

use super::cells::{grouped, nanos, overhead};
use super::kernel::names;
use crate::environment::Environment;
use crate::markdown::Table;
use crate::measure::{INSTRUCTIONS, SCALAR, SELINUX, VECTOR, WIRE};
use crate::mode::{
    AH, CIPSO, ESP_GCM, ESP_NULL, HMAC_TC, INTEGRITY_TC, LABEL_TC, Mode, PLAIN, SIPHASH_TC,
    SIPHASH_XDP, WIREGUARD_KERNEL,
};
use crate::samples::Samples;

/// A row of the short table.
pub(super) struct Row {
    pub(super) mode: Mode,
    /// Short enough for a plot.
    pub(super) name: &'static str,
    /// Where it was measured.
    pub(super) at: &'static str,
}

const fn row(mode: Mode, name: &'static str, at: &'static str) -> Row {
    Row { mode, name, at }
}

/// The rows of the short table.
pub(super) const ROWS: [Row; 10] = [
    row(LABEL_TC, "label only", SCALAR),
    row(SIPHASH_TC, "SipHash", SCALAR),
    row(SIPHASH_XDP, "SipHash, XDP", SCALAR),
    row(HMAC_TC, "HMAC", SCALAR),
    row(INTEGRITY_TC, "… + payload", SCALAR),
    row(AH, "AH, HMAC", SCALAR),
    row(ESP_NULL, "ESP, HMAC", SCALAR),
    row(ESP_GCM, "ESP, GCM", SCALAR),
    row(WIREGUARD_KERNEL, "WireGuard", SCALAR),
    row(CIPSO, "CIPSO", SELINUX),
];

const METHOD: &str = "\
## Peers in the kernel

**Instructions, not time**: an emulated machine says nothing about time. QEMU's virtual clock counts instructions, one
a nanosecond (the run refuses to start where a loop of known length shows otherwise), so that what LMBench's loops time is
the instructions of both ends, kernel and user space, for one round trip of 4 bytes. Real processors execute
several instructions per cycle, wait for memory, and differ between kinds of instructions. Modes run one after the
other: such a clock does not drift, and what one mode sets up for the whole machine is not paid by others. Beside
them the bytes of the frame that a datagram of 4 bytes makes, which also shows that a mode was in force.

Both nodes are on this one kernel, with an agent each and the backend `lsm`, as Debian has it. The programs of each on
what moves data over sockets see the calls of both: Sigil's rows hold twice what one agent beside costs, as no node of
a cluster does.
";

/// What to know of a table.
fn explanation(at: &str) -> &'static str {
    if at == SELINUX {
        "SELinux in place of AppArmor, with a policy that lets everything through and gives all processes one category. \
         NetLabel labels what goes between two addresses; it is one for all namespaces, and looks at every packet once \
         it is configured. The kernel has no Smack (`CONFIG_SECURITY_SMACK` is not set)."
    } else if at == SCALAR {
        "A processor without SSSE3, AVX, AES and carry-less multiplication: with them one instruction of the kernel's \
         ciphers does the work of many, and a count of instructions flatters. So both sides use plain code here: \
         SHA-256, AES, GHASH, ChaCha20 in C, Poly1305 in scalar assembly, and Sigil's programs as the kernel \
         translates them."
    } else if at == VECTOR {
        "The same on a processor with AVX2, AES-NI and carry-less multiplication (QEMU has no SHA-NI), which the \
         kernel's own ciphers use and BPF programs cannot."
    } else {
        ""
    }
}

/// The name of a table.
fn title(at: &str) -> String {
    match at {
        SCALAR => "Scalar instructions".to_owned(),
        VECTOR => "Vector instructions".to_owned(),
        _ => at.to_owned(),
    }
}

pub(super) fn tables(samples: &Samples, environment: Option<&Environment>) -> String {
    let mut text = String::new();
    if samples.series(INSTRUCTIONS).next().is_none() {
        return text;
    }
    let _ = writeln!(text, "{METHOD}");
    for at in names(samples, INSTRUCTIONS, |sample| &sample.at) {
        let _ = writeln!(text, "### {}\n\n{}", title(&at), explanation(&at));
        if let Some(guest) = environment.and_then(|environment| environment.guests.get(&at)) {
            let drivers: Vec<_> =
                guest.drivers.iter().map(|(name, driver)| format!("{name} by {driver}")).collect();
            let _ = writeln!(
                text,
                "\nLinux {} on {}; {}; revision {}.",
                guest.kernel,
                guest.emulator,
                drivers.join(", "),
                guest.revision
            );
        }
        let _ = writeln!(text, "\n{}", table(samples, &at));
    }
    text
}

fn table(samples: &Samples, at: &str) -> Table {
    let mut table = Table::new(["mode", "UDP", "overhead", "TCP", "overhead", "frame, bytes"]);
    for mode in names(samples, INSTRUCTIONS, |sample| &sample.mode) {
        let [udp, tcp] = ["udp", "tcp"].map(|row| [INSTRUCTIONS, row, &mode, at]);
        let over = |key| if mode == PLAIN.id { None } else { samples.ratio(key, PLAIN.id) };
        if samples.estimate(udp).is_some() {
            table.row([
                Mode::title(&mode).to_owned(),
                nanos(samples.estimate(udp)),
                overhead(over(udp)),
                nanos(samples.estimate(tcp)),
                overhead(over(tcp)),
                frame(samples, &mode, at),
            ]);
        }
    }
    table
}

/// Bytes of a mode's frame.
pub(super) fn frame(samples: &Samples, mode: &str, at: &str) -> String {
    samples
        .estimate([WIRE, "udp", mode, at])
        .map_or_else(String::new, |bytes| grouped(bytes.median))
}
