//! The scenes, in the order in which they are played.

use crate::governed;
use crate::stage::{APP, DB, OPENED, SECURE, Stage, USER, WEB};
use anyhow::{Context, Result, ensure};
use etherparse::IpNumber;
use sigil_harness::packet::{self, Headers};
use sigil_harness::traffic::finish;
use sigil_harness::{PATIENCE, until};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub(crate) struct Scene {
    pub(crate) title: &'static str,
    pub(crate) expected: &'static str,
    pub(crate) play: fn(&mut Stage) -> Result<String>,
}

const fn scene(
    title: &'static str,
    expected: &'static str,
    play: fn(&mut Stage) -> Result<String>,
) -> Scene {
    Scene { title, expected, play }
}

pub(crate) const SCENES: &[Scene] = &[
    scene("web fetches a page from app (curl)", "hello from app", web_to_app),
    scene("app sends a stream to db (iperf3, integrity)", "done", app_to_db),
    scene("web pings app", "done", web_pings_app),
    scene("web connects to db, which no rule allows (curl)", "no-rule", web_to_db),
    scene("db connects to app: a rule works in one direction", "no-rule", db_to_app),
    scene("a process in no zone connects to app", "no-scid", no_zone),
    scene("a node with foreign keys connects to app", "bad-icv", rogue),
    scene("an unlabelled host sends to app", "unlabelled", unlabelled),
    scene("an attacker forges web's label, without authentication", "protection", forged_plain),
    scene("an attacker forges web's label, with a guessed ICV", "bad-icv", forged),
    scene("an attacker names a key that nobody has", "unknown-key", unknown_key),
    scene("an attacker replays a datagram from web to app", "replay", replayed),
    scene("an attacker changes the payload on its way to db", "bad-icv", tampered),
    scene("  … and the datagram as it was sent still arrives", "delivered", untampered),
    scene("a user runs secure-prog, signed: it spawns and fetches", "hello from app", signed),
    scene("  … the same program unsigned spawns", "process-permission", unsigned_spawns),
    scene("  … and talks", "no-rule", unsigned_talks),
    scene("  … signed, then changed by one byte, spawns", "process-permission", changed_spawns),
    scene("  … and talks", "no-rule", changed_talks),
    scene("the policy is swapped under load", "0 lost, web reaches db", swapped),
    scene("app's agent is killed (SIGKILL) under load", "0 lost, unlabelled", killed),
    scene("every packet at every hook is accounted for", "balanced", balanced),
    scene("four nodes join a Security Server", "4 nodes, policy and keys", governed::joined),
    scene("a policy is pushed under load", "0 lost, web reaches db", governed::pushed),
    scene("a token is used a second time", "refused", governed::token_again),
    scene("keys are rotated under load", "0 lost", governed::rotated),
    scene("web is revoked under load, within 2 s", "cut off", governed::revoked),
    scene("the alarms arrive at the server", "join- and node-refused", governed::alarmed),
];

/// Runs a program in a zone, or in none: `done` where it succeeds, and what was dropped meanwhile.
fn attempt(
    stage: &Stage,
    (from, zone, to): (&str, Option<u32>, &str),
    argv: &[&str],
) -> Result<String> {
    let node = stage.node(from)?;
    let mut done = false;
    let drops = stage.drops(&[from, to], || {
        let output = zone.map_or_else(|| node.run(argv), |scid| node.run_zone(scid, argv))?;
        done = output.success();
        Ok(())
    })?;
    Ok(match (done, drops.as_str()) {
        (true, "") => "done".into(),
        (true, drops) => format!("done, {drops}"),
        (false, "") => "failed, nothing dropped".into(),
        (false, drops) => drops.into(),
    })
}

const FETCH_APP: &[&str] = &["curl", "--silent", "--max-time", "1", "http://10.77.0.2:8000/"];
const FETCH_DB: &[&str] = &["curl", "--silent", "--max-time", "1", "http://10.77.0.3:8000/"];

fn web_to_app(stage: &mut Stage) -> Result<String> {
    Ok(stage.node("web")?.run_zone(WEB, FETCH_APP)?.stdout.trim().into())
}

fn app_to_db(stage: &mut Stage) -> Result<String> {
    let stream = ["iperf3", "--client", "10.77.0.3", "--time", "1"];
    attempt(stage, ("app", Some(APP), "db"), &stream)
}

fn web_pings_app(stage: &mut Stage) -> Result<String> {
    let ping = ["ping", "-c", "3", "-i", "0.01", "-W", "1", "10.77.0.2"];
    attempt(stage, ("web", Some(WEB), "app"), &ping)
}

fn web_to_db(stage: &mut Stage) -> Result<String> {
    attempt(stage, ("web", Some(WEB), "db"), FETCH_DB)
}

fn db_to_app(stage: &mut Stage) -> Result<String> {
    attempt(stage, ("db", Some(DB), "app"), FETCH_APP)
}

fn no_zone(stage: &mut Stage) -> Result<String> {
    attempt(stage, ("web", None, "app"), FETCH_APP)
}

fn rogue(stage: &mut Stage) -> Result<String> {
    attempt(stage, ("rogue", Some(WEB), "app"), FETCH_APP)
}

fn unlabelled(stage: &mut Stage) -> Result<String> {
    let headers = Headers::between(&stage.mallory.node, stage.node("app")?)?;
    stage.inject("app", &[headers.udp(9, 9000, b"hello")?, headers.tcp_syn(9, 8000, 1)?])
}

/// As web would send, but for the label.
fn as_web(stage: &Stage, label: &[u8]) -> Result<Vec<u8>> {
    let (web, app) = (stage.node("web")?, stage.node("app")?);
    let headers = Headers::between(&stage.mallory.node, app)?.pretending(web.address());
    headers.options(label)?.udp(9, 9000, b"hello")
}

fn forged_plain(stage: &mut Stage) -> Result<String> {
    let frame = as_web(stage, &packet::label(1, WEB))?;
    stage.inject("app", &[frame])
}

fn forged(stage: &mut Stage) -> Result<String> {
    let captured = exchange_captured(stage)?;
    let label = packet::label_offset(&captured).context("no label")?;
    let key_id = *captured.get(label + 22).context("no authentication")?;
    let frame = as_web(stage, &packet::authenticated(1, WEB, key_id, 0, 1 << 20, [0x42; 12]))?;
    stage.inject("app", &[frame])
}

fn unknown_key(stage: &mut Stage) -> Result<String> {
    let frame = as_web(stage, &packet::authenticated(1, WEB, 0xee, 0, 1 << 20, [0x42; 12]))?;
    stage.inject("app", &[frame])
}

/// A datagram from web to app that has been delivered.
fn exchange_captured(stage: &Stage) -> Result<Vec<u8>> {
    let web = stage.node("web")?;
    stage.mallory.capture(&stage.cluster.lab, web, IpNumber::UDP, || {
        let exchange = web.exchange(Some(WEB), &["udp-exchange", "10.77.0.2:9000", "1", "64"])?;
        ensure!(exchange.is_complete(), "{exchange:?}");
        Ok(())
    })
}

fn replayed(stage: &mut Stage) -> Result<String> {
    let frame = exchange_captured(stage)?;
    stage.inject("app", &[frame])
}

/// A datagram from app to db that did not arrive.
fn intercepted(stage: &Stage) -> Result<Vec<u8>> {
    let (app, db) = (stage.node("app")?, stage.node("db")?);
    let client = ["udp-exchange", "10.77.0.3:9000", "1", "64"];
    let warm_up = app.exchange(Some(APP), &client)?;
    ensure!(warm_up.is_complete(), "{warm_up:?}");
    stage.mallory.intercept(&stage.cluster.lab, (app, db), IpNumber::UDP, || {
        app.exchange(Some(APP), &client).map(drop)
    })
}

fn tampered(stage: &mut Stage) -> Result<String> {
    let mut frame = intercepted(stage)?;
    let last = frame.len() - 1;
    packet::flip(&mut frame, 8 * last)?;
    packet::repair(&mut frame)?;
    stage.inject("db", &[frame])
}

fn untampered(stage: &mut Stage) -> Result<String> {
    let frame = intercepted(stage)?;
    let verdict = stage.inject("db", &[frame])?;
    Ok(if verdict.is_empty() { "delivered".into() } else { verdict })
}

/// A program of its own that a user of web's node runs: a shell.
fn secure_prog(stage: &Stage, signed: bool) -> Result<PathBuf> {
    // Of a new file: who was killed as it ran the last one may not have let go of it.
    let _ = fs::remove_file(stage.programs.path().join("secure-prog"));
    let program = stage.programs.copy(&fs::canonicalize("/bin/sh")?, "secure-prog")?;
    if signed {
        stage.operator.sign(&program, SECURE)?;
    }
    Ok(program)
}

/// As [`secure_prog`], signed, and then with one byte more.
fn changed_prog(stage: &Stage) -> Result<PathBuf> {
    let program = secure_prog(stage, true)?;
    OpenOptions::new().append(true).open(&program)?.write_all(b"\0")?;
    Ok(program)
}

const SPAWN: &str = "curl --silent --max-time 1 http://10.77.0.2:8000/; exit $?";
const TALK: &str = "exec curl --silent --max-time 1 http://10.77.0.2:8000/";

fn run_by_user(stage: &Stage, program: &Path, script: &str) -> Result<String> {
    let program = program.to_str().context("a path")?;
    attempt(stage, ("web", Some(USER), "app"), &[program, "-c", script])
}

fn signed(stage: &mut Stage) -> Result<String> {
    let program = secure_prog(stage, true)?;
    let program = program.to_str().context("a path")?;
    Ok(stage.node("web")?.run_zone(USER, &[program, "-c", SPAWN])?.stdout.trim().into())
}

fn unsigned_spawns(stage: &mut Stage) -> Result<String> {
    run_by_user(stage, &secure_prog(stage, false)?, SPAWN)
}

fn unsigned_talks(stage: &mut Stage) -> Result<String> {
    run_by_user(stage, &secure_prog(stage, false)?, TALK)
}

fn changed_spawns(stage: &mut Stage) -> Result<String> {
    run_by_user(stage, &changed_prog(stage)?, SPAWN)
}

fn changed_talks(stage: &mut Stage) -> Result<String> {
    run_by_user(stage, &changed_prog(stage)?, TALK)
}

fn swapped(stage: &mut Stage) -> Result<String> {
    let client = ["udp-exchange", "10.77.0.2:9000", "2s", "512"];
    let mut load = stage.node("web")?.traffic(Some(WEB), &client)?;
    stage.load(OPENED)?;
    let reached = stage.node("web")?.run_zone(WEB, FETCH_DB)?.success();
    ensure!(load.is_running()?, "the load ended before the policy was in force");
    let exchange = finish(load)?;
    let db = if reached { "web reaches db" } else { "web does not reach db" };
    Ok(format!("{} lost, {db}", exchange.sent - exchange.received))
}

fn killed(stage: &mut Stage) -> Result<String> {
    let client = ["udp-exchange", "10.77.0.2:9000", "2s", "512"];
    let mut load = stage.node("web")?.traffic(Some(WEB), &client)?;
    let before = stage.node("app")?.stats()?.dropped("ingress", "unlabelled");
    stage.cluster.member("app")?.take_agent()?.kill9()?;
    let headers = Headers::between(&stage.mallory.node, stage.node("app")?)?;
    stage.mallory.send(&headers.udp(9, 9000, b"hello")?)?;
    ensure!(load.is_running()?, "the load ended before the agent was killed");
    let exchange = finish(load)?;
    // The counters are pinned too: the next agent reads what was dropped without one.
    stage.cluster.member("app")?.start()?;
    let app = stage.node("app")?;
    let dropped = || Ok((app.stats()?.dropped("ingress", "unlabelled") > before).then_some(()));
    until("drop of the unlabelled packet", PATIENCE, dropped)?;
    Ok(format!("{} lost, unlabelled", exchange.sent - exchange.received))
}

fn balanced(stage: &mut Stage) -> Result<String> {
    stage.cluster.nodes().try_for_each(|node| node.stats()?.balanced())?;
    Ok("balanced".into())
}
