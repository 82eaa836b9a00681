//! Options that a scan lets pass hold no option 134 for a receiver that walks them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sigil_common::wire::ipv4::{Scan, scan_options};
use sigil_common::wire::option::KIND;

fn walk(options: &[u8]) -> Scan {
    let mut rest = options;
    loop {
        rest = match *rest {
            [] | [0, ..] => return Scan::Clear,
            [1, ref rest @ ..] => rest,
            [KIND, ..] => return Scan::Foreign,
            [_, len, ..] if len >= 2 => match rest.get(len as usize..) {
                Some(rest) => rest,
                None => return Scan::Malformed,
            },
            _ => return Scan::Malformed,
        };
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut options = [KIND; 40];
    let len = bytes.len().min(options.len());
    options[..len].copy_from_slice(&bytes[..len]);
    assert_eq!(scan_options(&options, len as u32), walk(&options[..len]));
});
