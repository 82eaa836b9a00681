//! Every program loads, and costs the kernel's verifier no more than `tests/budgets.toml` grants.

use std::collections::BTreeMap;

use anyhow::Result;
use sigil_common::abi::name::TRACEPOINTS;
use sigil_tests::kernel::Kernel;

/// Program → instructions that the verifier may walk. To be raised by hand, with a reason; what is
/// measured now plus a fifth is the custom.
const BUDGETS: &str = include_str!("../budgets.toml");

#[test]
fn every_program_loads_within_its_budget() -> Result<()> {
    let mut budgets: BTreeMap<String, u32> = toml::from_str(BUDGETS)?;
    let kernel = Kernel::open(1)?;
    let mut broken = Vec::new();
    for (program, size) in &kernel.programs {
        let line = format!("{program} = {}", size.verified + size.verified / 5);
        println!("{program}: {} verified, {} translated", size.verified, size.translated);
        match budgets.remove(program) {
            None => broken.push(format!("{program} has no budget; suggested: {line}")),
            Some(budget) if size.verified == 0 || size.verified > budget => {
                broken.push(format!("{program}: {} of {budget}; suggested: {line}", size.verified));
            }
            Some(_) => {}
        }
    }
    // The kernel may do without the tracepoints of some.
    budgets.retain(|program, _| !TRACEPOINTS.iter().any(|at| at.optional && at.program == program));
    broken.extend(budgets.keys().map(|program| format!("{program} is no program")));
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    Ok(())
}
