//! `IPsec` between the nodes, keyed by hand.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;

use anyhow::Result;
use sigil_harness::Node;

use crate::mode::Ipsec;

/// Protects all that goes between the nodes, in transport mode and with a replay window.
pub(super) fn protect(nodes: [&Node; 2], protection: Ipsec) -> Result<()> {
    let (protocol, algorithm) = match protection {
        Ipsec::Ah => ("ah", format!("auth-trunc hmac(sha256) {} 128", key(32)?)),
        Ipsec::EspNull => {
            ("esp", format!("auth-trunc hmac(sha256) {} 128 enc ecb(cipher_null) \"\"", key(32)?))
        }
        // Of the key's bytes the last four are the nonce's salt.
        Ipsec::EspGcm => ("esp", format!("aead rfc4106(gcm(aes)) {} 128", key(20)?)),
    };
    let [one, two] = nodes.map(Node::address);
    for (node, [own, other]) in nodes.into_iter().zip([[one, two], [two, one]]) {
        let mut commands = String::new();
        for (index, (from, to)) in (1..).zip([(one, two), (two, one)]) {
            // A line that cannot be written to a string is none that could fail.
            let _ = writeln!(
                commands,
                "xfrm state add src {from} dst {to} proto {protocol} spi {index} mode transport \
                 replay-window 32 {algorithm}"
            );
        }
        for (direction, from, to) in [("out", own, other), ("in", other, own)] {
            let _ = writeln!(
                commands,
                "xfrm policy add src {from} dst {to} dir {direction} tmpl proto {protocol} mode transport"
            );
        }
        node.netns().ip(&commands)?;
    }
    Ok(())
}

/// A random key of so many bytes, as `ip` reads it.
fn key(length: usize) -> Result<String> {
    let mut bytes = vec![0_u8; length];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut text = "0x".to_owned();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
