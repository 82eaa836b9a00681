//! What the benchmarks share.
//!
//! They measure, in one run and interleaved, Sigil's programs against programs that do nothing, and
//! quote medians and minima: a machine is never quiet. Needs root; all traffic stays in namespaces
//! made for it.

pub mod bed;
pub mod frame;
pub mod machine;
pub mod numbers;
pub mod peer;
pub mod program;
pub mod rules;
pub mod sys;
pub mod table;
