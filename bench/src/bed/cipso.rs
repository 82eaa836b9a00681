//! CIPSO labels by `NetLabel`.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sigil_harness::Node;

/// The domain of interpretation.
const DOI: &str = "3";

/// Has all packets between further addresses of the nodes labelled with their sender's security level, and
/// returns the second node's. `NetLabel` knows one configuration for the whole machine; `SELinux` applies it to
/// the sockets of every namespace.
pub(super) fn label(nodes: [&Node; 2]) -> Result<Ipv4Addr> {
    let address = |number: u8| Ipv4Addr::new(10, 81, 0, number);
    for (number, node) in (1..).zip(nodes) {
        node.netns().ip(&format!("addr add {}/24 dev eth0", address(number)))?;
    }
    for arguments in [
        // Levels and categories as they are, in tags of type 1, a bit for each category.
        &["cipsov4", "add", "pass", &format!("doi:{DOI}"), "tags:1"][..],
        &["map", "del", "default"],
        &["map", "add", "default", "address:0.0.0.0/0", "protocol:unlbl"],
        &["map", "add", "default", "address:::/0", "protocol:unlbl"],
        &["map", "add", "default", "address:10.81.0.0/24", &format!("protocol:cipsov4,{DOI}")],
    ] {
        let output = Command::new("netlabelctl")
            .args(arguments)
            .output()
            .context("netlabelctl; see scripts/setup")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "netlabelctl {}: {said}", arguments.join(" "));
    }
    Ok(address(2))
}
