//! Stamped packets as others see them: a FIPS 188 (CIPSO) option with nothing malformed in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, PATIENCE, binary, until};
use sigil_tests::packet::repair_checksum;

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const WEB: u32 = 10;
/// What the kernel module of DSI sent: ScID 2, SnID 1.
const DSI: &str = "861410001000070e030600000002060600000001";

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().context(program.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// Echo requests and replies between two nodes, as they cross the bridge.
fn captured(cluster: &Cluster, file: &Path) -> Result<()> {
    let (one, target) = (cluster.node("one")?, file.display().to_string());
    let port = one.port();
    let mut tcpdump = cluster.lab.switch().enter(|| {
        let arguments = ["-U", "-i", &port, "-c", "4", "-w", &target, "icmp"];
        Ok(Command::new("tcpdump").args(arguments).stderr(Stdio::null()).spawn()?)
    })?;
    // The file's head is written when the capture runs.
    until("the capture", PATIENCE, || {
        Ok(fs::metadata(file).ok().filter(|file| file.len() >= 24).map(drop))
    })?;
    let exchange = one.exchange(Some(WEB), &["ping", "10.77.0.2", "3"])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    ensure!(tcpdump.wait()?.success(), "tcpdump");
    Ok(())
}

fn is_cipso(file: &Path, length: usize, tag: &str) -> Result<()> {
    let file = file.display().to_string();
    let tshark = output("tshark", &["-n", "-V", "-r", &file])?;
    for expected in [
        format!("IP Option - Commercial Security ({length} bytes)"),
        "DOI: 268439552".to_owned(),
        "Tag Type: Free Form (7)".to_owned(),
        format!("Tag data: {tag}"),
    ] {
        assert!(tshark.contains(&expected), "no `{expected}` in {tshark}");
    }
    assert!(!tshark.contains("Malformed"), "{tshark}");
    let tcpdump = output("tcpdump", &["-nvr", &file])?;
    assert!(tcpdump.contains("options (unknown 134)"), "{tcpdump}");
    assert!(!tcpdump.contains("bad"), "{tcpdump}");
    Ok(())
}

#[test]
fn a_stamped_packet_is_a_cipso_option() -> Result<()> {
    let cluster = Cluster::start("captures", &Setting::of(POLICY))?;
    let file = cluster.lab.switch().path().with_extension("none");
    let file = cluster.node("one")?.directory().join(file.file_stem().unwrap_or_default());
    captured(&cluster, &file)?;
    // TLV 3, ScID 10 (web); TLV 6, SnID 1; TLV 7, authentication.
    is_cipso(&file, 40, "03060000000a0606000000010714")
}

#[test]
fn the_option_that_dsi_sent_is_one_too() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file: PathBuf = directory.path().join("dsi.pcap");
    fs::write(&file, capture_of(&hex(DSI)?))?;
    is_cipso(&file, 20, "030600000002060600000001")?;
    let labelctl = binary("labelctl")?.display().to_string();
    let decoded = output(&labelctl, &["label", "decode", DSI, "-o", "json"])?;
    for expected in ["\"scid\":2", "\"snid\":1", "\"auth\":null"] {
        assert!(decoded.replace(' ', "").contains(expected), "{decoded}");
    }
    Ok(())
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// A pcap file of one echo request that carries the option.
fn capture_of(option: &[u8]) -> Vec<u8> {
    let mut packet = [&[0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0][..]].concat();
    let mut header = vec![0x4a, 0, 0, 48, 0, 1, 0, 0, 64, 1, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2];
    header.extend(option);
    packet.extend(header);
    repair_checksum(&mut packet);
    packet.extend([8, 0, 0xf7, 0xfe, 0, 1, 0, 0]);
    let length = u32::try_from(packet.len()).unwrap_or(0).to_le_bytes();
    let magic = 0xa1b2_c3d4_u32.to_le_bytes();
    let head = [2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
    [&magic[..], &head, &[0; 8], &length, &length, &packet].concat()
}
