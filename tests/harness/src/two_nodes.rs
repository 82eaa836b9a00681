//! The policy of two nodes (`dsp/two-nodes.xml`) under a Security Server: what tests push and ask.

use crate::{Cluster, Node};
use anyhow::Result;
use std::fs;

/// The document, of serial 1: on node `one` WEB may talk to APP on node `two`, and OTHER may not.
pub const POLICY: &str = include_str!("../dsp/two-nodes.xml");
/// A zone of `one`.
pub const WEB: u32 = 10;
/// The zone of what serves on `two`.
pub const APP: u32 = 20;
/// Another zone of `one`.
pub const OTHER: u32 = 30;
/// The rule that lets OTHER talk to APP.
pub const OTHER_TO_APP: &str = "<SOCKET_class_rule><sSnID>one</sSnID><sScID>other</sScID>\
    <tSnID>two</tSnID><tScID>app</tScID><allow>CREATE</allow></SOCKET_class_rule>";

/// Whether a process of a zone of `one` gets all its answers from port 8000 of `two`.
///
/// # Errors
///
/// The cluster has no node `one`.
pub fn echoes(cluster: &Cluster, zone: u32) -> Result<bool> {
    let one = cluster.node("one")?;
    let exchange = one.exchange(Some(zone), &["udp-exchange", "10.77.0.2:8000", "20", "64"]);
    Ok(exchange.is_ok_and(|exchange| exchange.is_complete()))
}

/// The document with another serial and more in it, as a file on a host.
///
/// # Errors
///
/// It cannot be written.
pub fn document(host: &Node, serial: u32, more: &str) -> Result<String> {
    let text = POLICY
        .replace("serial=\"1\"", &format!("serial=\"{serial}\""))
        .replace("</DSP>", &format!("{more}</DSP>"));
    let path = host.directory().join(format!("policy-{serial}.xml"));
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}
