//! Bytes that parse as a label option emit as themselves; others name an offset within them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sigil_common::wire::option::{LABEL_LEN, LabelOption};

fuzz_target!(|bytes: &[u8]| {
    match LabelOption::parse(bytes) {
        Ok(option) => {
            assert!(option.tag.label.snid != 0 && option.tag.label.scid != 0);
            assert_eq!(option.auth.is_some(), option.tag.authenticated());
            let (mut first, mut second) = ([0; LABEL_LEN], [0; LABEL_LEN]);
            option.tag.emit(&mut first);
            let mut emitted = first.to_vec();
            if let Some(auth) = option.auth {
                assert_ne!(auth.flags.segments(), 1);
                auth.emit(&mut second);
                emitted.extend(second);
            }
            assert_eq!(emitted, bytes);
        }
        Err(error) => assert!(error.offset() <= bytes.len(), "{error}"),
    }
});
