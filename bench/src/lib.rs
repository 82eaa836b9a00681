//! What Sigil costs.
//!
//! Modes (no programs, programs that do nothing, Sigil, its peers) take turns on veth pairs of
//! their own and are measured in turn, round after round. All figures end up as [`samples::Sample`]s,
//! from which [`report`] alone makes tables and plots. Needs root; all traffic stays in namespaces
//! made for it.

pub mod bed;
pub mod end;
pub mod environment;
pub mod kernel;
pub mod markdown;
pub mod measure;
pub mod mode;
pub mod report;
pub mod samples;
