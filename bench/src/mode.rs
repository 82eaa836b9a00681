//! What is compared: what is attached to the two ends of a veth pair.

/// A way to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// As results name it.
    pub id: &'static str,
    /// As people read it.
    pub title: &'static str,
    /// What is attached.
    pub kind: Kind,
}

/// What is attached to both nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// Programs that do nothing.
    Empty(Hooks),
    /// Sigil's agent.
    Sigil(Sigil),
    /// Nothing here, and Sigil's agent on a third node of the machine.
    Beside(Sigil),
    /// nftables with a set of so many allowed peers, and a drop for all others.
    NftSet(u32),
    /// nftables with so many rules in a row, the last of which matches.
    NftChain(u32),
    /// `WireGuard` over the pair.
    WireGuard(Runs),
    /// `IPsec` between the nodes, in transport mode.
    Ipsec(Ipsec),
    /// CIPSO options by `NetLabel`, at the behest of `SELinux`.
    Cipso,
}

/// Where a tunnel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// In user space (boringtun).
    UserSpace,
    /// In the kernel.
    Kernel,
}

/// What protects packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipsec {
    /// AH with HMAC-SHA-256-128 (RFC 4868): authentic headers and payload.
    Ah,
    /// ESP with HMAC-SHA-256-128 and no encryption (RFC 2410): an authentic payload.
    EspNull,
    /// ESP with AES-128-GCM (RFC 4106): an authentic and encrypted payload.
    EspGcm,
}

/// Where programs that do nothing are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// Where Sigil has programs when it verifies in TC.
    Tc,
    /// At XDP alone.
    XdpAlone,
    /// Where Sigil has programs when it verifies in XDP.
    Xdp,
}

/// How Sigil is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sigil {
    /// Where packets are verified, `tc` or `xdp`.
    pub verify: &'static str,
    /// The keys' suite; none for labels alone.
    pub suite: Option<&'static str>,
    /// The protection of all zones.
    pub protection: &'static str,
    /// How many labels a node knows beside those of the traffic.
    pub rules: u32,
}

const SIPHASH: Option<&str> = Some("siphash-2-4-96");
const BLAKE3: Option<&str> = Some("blake3-96");
const HMAC: Option<&str> = Some("hmac-sha256-96");

const fn sigil(
    verify: &'static str,
    suite: Option<&'static str>,
    protection: &'static str,
) -> Kind {
    Kind::Sigil(Sigil { verify, suite, protection, rules: 0 })
}

const fn mode(id: &'static str, title: &'static str, kind: Kind) -> Mode {
    Mode { id, title, kind }
}

/// No programs: what everything is held against.
pub const PLAIN: Mode = mode("plain", "no programs", Kind::Plain);
/// The floor of the hooks in TC mode.
pub const FLOOR_TC: Mode = mode("floor-tc", "empty programs, TC", Kind::Empty(Hooks::Tc));
/// What native XDP costs on veth before any work is done.
pub const PASS_XDP: Mode =
    mode("pass-xdp", "XDP that passes everything", Kind::Empty(Hooks::XdpAlone));
/// The floor of the hooks in XDP mode.
pub const FLOOR_XDP: Mode = mode("floor-xdp", "empty programs, XDP", Kind::Empty(Hooks::Xdp));
/// The default on virtual links.
pub const SIPHASH_TC: Mode =
    mode("siphash-tc", "SipHash, TC", sigil("tc", SIPHASH, "authenticate"));
/// What the programs of one agent cost that see the calls of the whole machine. Both nodes' agents are
/// on one machine here, so that the modes of Sigil bear it twice, as no node of a cluster does.
pub const BESIDE: Mode = mode(
    "beside",
    "no programs, beside one agent",
    Kind::Beside(Sigil { verify: "tc", suite: SIPHASH, protection: "authenticate", rules: 0 }),
);
/// The default on other links.
pub const SIPHASH_XDP: Mode =
    mode("siphash-xdp", "SipHash, XDP", sigil("xdp", SIPHASH, "authenticate"));
/// The paper's own mode.
pub const LABEL_TC: Mode = mode("label-tc", "label only, TC", sigil("tc", None, "label"));
const LABEL_XDP: Mode = mode("label-xdp", "label only, XDP", sigil("xdp", None, "label"));
const BLAKE3_TC: Mode = mode("blake3-tc", "BLAKE3, TC", sigil("tc", BLAKE3, "authenticate"));
const BLAKE3_XDP: Mode = mode("blake3-xdp", "BLAKE3, XDP", sigil("xdp", BLAKE3, "authenticate"));
/// The conservative suite.
pub const HMAC_TC: Mode = mode("hmac-tc", "HMAC-SHA-256, TC", sigil("tc", HMAC, "authenticate"));
const HMAC_XDP: Mode = mode("hmac-xdp", "HMAC-SHA-256, XDP", sigil("xdp", HMAC, "authenticate"));
/// With the payload covered.
pub const INTEGRITY_TC: Mode =
    mode("integrity-tc", "HMAC-SHA-256 + payload, TC", sigil("tc", HMAC, "integrity"));
const INTEGRITY_XDP: Mode =
    mode("integrity-xdp", "HMAC-SHA-256 + payload, XDP", sigil("xdp", HMAC, "integrity"));
/// A packet filter by addresses, not authenticated.
pub const NFTABLES: Mode = mode("nftables", "nftables, set of 1,000", Kind::NftSet(1000));
/// An encrypted tunnel in user space.
pub const WIREGUARD: Mode =
    mode("wireguard", "WireGuard in user space", Kind::WireGuard(Runs::UserSpace));
/// An encrypted tunnel in the kernel.
pub const WIREGUARD_KERNEL: Mode =
    mode("wireguard-kernel", "WireGuard", Kind::WireGuard(Runs::Kernel));
/// The closest to Sigil in what it authenticates.
pub const AH: Mode = mode("ah", "IPsec AH, HMAC-SHA-256", Kind::Ipsec(Ipsec::Ah));
/// Authentication alone.
pub const ESP_NULL: Mode = mode("esp-null", "IPsec ESP, HMAC-SHA-256", Kind::Ipsec(Ipsec::EspNull));
/// Encryption as well.
pub const ESP_GCM: Mode = mode("esp-gcm", "IPsec ESP, AES-128-GCM", Kind::Ipsec(Ipsec::EspGcm));
/// A label without authentication, as the kernel has had it since 2.6.19.
pub const CIPSO: Mode = mode("cipso", "NetLabel CIPSO, SELinux", Kind::Cipso);

/// All modes of the table.
pub const ALL: [Mode; 17] = [
    PLAIN,
    BESIDE,
    FLOOR_TC,
    LABEL_TC,
    SIPHASH_TC,
    BLAKE3_TC,
    HMAC_TC,
    INTEGRITY_TC,
    PASS_XDP,
    FLOOR_XDP,
    LABEL_XDP,
    SIPHASH_XDP,
    BLAKE3_XDP,
    HMAC_XDP,
    INTEGRITY_XDP,
    NFTABLES,
    WIREGUARD,
];

/// What a stock kernel has beside Sigil.
pub const PEERS: [Mode; 13] = [
    PLAIN,
    PASS_XDP,
    BESIDE,
    LABEL_TC,
    SIPHASH_TC,
    HMAC_TC,
    INTEGRITY_TC,
    SIPHASH_XDP,
    NFTABLES,
    AH,
    ESP_NULL,
    ESP_GCM,
    WIREGUARD_KERNEL,
];

/// What it has where `SELinux` runs.
pub const LABELLED: [Mode; 2] = [PLAIN, CIPSO];

/// Those of the first table.
pub const QUICK: [Mode; 7] = [PLAIN, BESIDE, FLOOR_TC, LABEL_TC, SIPHASH_TC, PASS_XDP, SIPHASH_XDP];

impl Mode {
    /// Whether an agent runs somewhere.
    #[must_use]
    pub fn has_agents(&self) -> bool {
        matches!(self.kind, Kind::Sigil(_) | Kind::Beside(_))
    }

    /// The mode that a mode is held against beside [`PLAIN`]: native XDP costs on veth what is no
    /// concern of Sigil's.
    #[must_use]
    pub fn floor(&self) -> &'static str {
        match self.kind {
            Kind::Sigil(Sigil { verify: "xdp", .. }) | Kind::Empty(Hooks::Xdp) => PASS_XDP.id,
            _ => PLAIN.id,
        }
    }

    /// The title of a mode by its id.
    #[must_use]
    pub fn title(id: &str) -> &str {
        ALL.iter()
            .chain(&PEERS)
            .chain(&LABELLED)
            .find(|mode| mode.id == id)
            .map_or(id, |mode| mode.title)
    }
}
