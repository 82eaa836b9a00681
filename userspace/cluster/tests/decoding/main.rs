//! Whatever bytes come: every message is read or refused, and what is signed or chained does not hold.

mod read;

use proptest::prelude::*;
use prost::Message;
use sigil_cluster::proto::{
    Envelope, Epoch, Hello, Keys, NodeAlarm, NodeMessage, Pair, Progress, Report, ServerMessage,
    SpoolRecord, node_message, server_message,
};

use read::everything;

fn good() -> Vec<Vec<u8>> {
    let progress = Progress { problem: "a problem".into(), seen_keys: 7, ..Progress::default() };
    let hello =
        Hello { version: "1.0".into(), instance: vec![1; 16], progress: Some(progress), time: 9 };
    let alarm = NodeAlarm { number: 1, kind: "drop".into(), count: 3, ..NodeAlarm::default() };
    let report = Report { chain: vec![2; 16], alarms: vec![alarm.clone(), alarm.clone()] };
    let pair = Pair { source: 1, target: 2, key: vec![3; 32] };
    let epoch = Epoch { key_id: 1, suite: 3, pairs: vec![pair], number: 1 };
    let keys = Keys { version: 4, epochs: vec![epoch], stamp: 1, revoked: vec![9] };
    let envelope = Envelope { cluster: "lab".into(), snid: 1, ..Envelope::default() };
    let node = |body| NodeMessage { body: Some(body) }.encode_to_vec();
    vec![
        node(node_message::Body::Hello(hello)),
        node(node_message::Body::Report(report.clone())),
        report.encode_to_vec(),
        ServerMessage { body: Some(server_message::Body::Keys(keys)) }.encode_to_vec(),
        envelope.encode_to_vec(),
        SpoolRecord { alarm: Some(alarm), reported: None }.encode_length_delimited_to_vec(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        everything(&bytes);
    }

    #[test]
    fn so_is_what_was_good_before_it_was_cut_and_changed(
        which in 0..6usize,
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut bytes = good().swap_remove(which);
        bytes.truncate(cut.index(bytes.len()) + 1);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        everything(&bytes);
    }
}
