//! The lowered maps of the examples, and the maps against the rules read one by one.

use sigil_policy::{Compiled, compile};

fn example(name: &str, text: &str) -> Compiled {
    compile(name, text.as_bytes(), None).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn the_examples_lower_to_these_maps() {
    for (name, text, snids) in [
        ("figure3", include_str!("../examples/figure3.xml"), &[1, 2][..]),
        ("telecom", include_str!("../examples/telecom.xml"), &[1, 3, 4][..]),
    ] {
        let compiled = example(name, text);
        assert!(compiled.warnings.diagnostics.is_empty(), "{}", compiled.warnings);
        for snid in snids {
            let rules = compiled.policy.rules_for(*snid).unwrap();
            insta::assert_json_snapshot!(format!("{name}_{snid}"), rules);
        }
    }
}
