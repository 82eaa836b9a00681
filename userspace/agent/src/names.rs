//! Names of nodes and zones, for events and requests.

use std::collections::{BTreeMap, BTreeSet};

use sigil_control::ZoneRef;
use sigil_policy::NodeRules;

/// What the policy in force calls things.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// This node.
    pub(crate) snid: u32,
    pub(crate) nodes: BTreeMap<u32, String>,
    pub(crate) zones: BTreeMap<u32, String>,
    pub(crate) kernel_scid: u32,
    /// The zones whose processes run signed code alone.
    pub(crate) signed_code: BTreeSet<u32>,
}

impl Names {
    pub(crate) fn of(rules: &NodeRules) -> Self {
        Self {
            snid: rules.snid,
            nodes: rules.nodes.iter().map(|node| (node.snid, node.name.clone())).collect(),
            zones: rules.zones.iter().map(|zone| (zone.scid, zone.name.clone())).collect(),
            kernel_scid: rules.kernel_scid,
            signed_code: rules.signed_code_zones().collect(),
        }
    }

    /// The declared zone that an operator means.
    pub(crate) fn zone(&self, wanted: &ZoneRef) -> Option<(u32, &str)> {
        let mut zones = self.zones.iter().map(|(scid, name)| (*scid, name.as_str()));
        zones.find(|(scid, name)| match wanted {
            ZoneRef::Id(id) => id == scid,
            ZoneRef::Name(wanted) => wanted == name,
        })
    }
}
