//! The product in scenes: three tiers on a bridge, real programs, an attacker beside them. Each scene
//! says what is expected and what came out; exits with 1 where the two differ.

mod governed;
mod operator;
mod scenes;
mod stage;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use scenes::SCENES;
use sigil_harness::Lab;
use stage::Stage;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

fn main() -> Result<ExitCode> {
    clean_up_on_signals()?;
    let start = Instant::now();
    let mut stage = Stage::set()?;
    println!("{:<58} {:<24} {:<24}", "scene", "expected", "outcome");
    let mut surprises = 0;
    for scene in SCENES {
        let outcome = (scene.play)(&mut stage).unwrap_or_else(|error| format!("error: {error:#}"));
        let verdict = if outcome == scene.expected { "ok" } else { "DIFFERS" };
        println!("{:<58} {:<24} {outcome:<24} {verdict}", scene.title, scene.expected);
        surprises += u32::from(outcome != scene.expected);
    }
    drop(stage);
    let (played, seconds) = (SCENES.len(), start.elapsed().as_secs_f32());
    println!("{played} scenes, {surprises} not as expected, {seconds:.1} s");
    Ok(if surprises == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A signal would end the demo without unwinding: a thread takes it and removes the lab.
fn clean_up_on_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    thread::spawn(move || {
        let signal = signals.wait().unwrap_or(Signal::SIGTERM);
        // Who prints a line waits here, so the next scene does not start.
        let _held = std::io::stdout().lock();
        if let Err(error) = Lab::remove_own() {
            eprintln!("{error:#}");
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}
