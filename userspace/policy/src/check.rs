//! What is wrong with rules taken together.

use crate::diagnostic::{Findings, Source};
use crate::model::Policy;

pub(crate) fn check(_policy: &Policy, _source: &Source, _found: &mut Findings) {}
