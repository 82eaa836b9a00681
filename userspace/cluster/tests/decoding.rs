//! Whatever bytes come: every message is read or refused, and what is signed or chained does not hold.

use proptest::prelude::*;
use prost::Message;
use sigil_cluster::chain::{Head, Place};
use sigil_cluster::envelope::{Recipient, open};
use sigil_cluster::proto::{
    Envelope, Epoch, Hello, Kept, Keys, NodeAlarm, NodeMessage, Pair, Progress, PushRequest,
    Report, ServerMessage, SignedPolicy, SpoolHead, SpoolRecord, node_message, server_message,
};
use sigil_cluster::{Identity, Token};

/// Reads bytes as every message that comes from outside, a wire or a disk.
fn read_all(bytes: &[u8]) {
    let _ = NodeMessage::decode(bytes);
    let _ = ServerMessage::decode(bytes);
    let _ = PushRequest::decode(bytes);
    let _ = Kept::decode(bytes);
    let _ = SpoolHead::decode_length_delimited(bytes);
    let _ = SpoolRecord::decode_length_delimited(bytes);
    let _ = Identity::of_certificate(bytes);
    let _ = String::from_utf8_lossy(bytes).parse::<Token>();
    let to = Recipient { cluster: "lab".into(), snid: 1, key: vec![7; 32] };
    let policy = SignedPolicy { envelope: bytes.to_vec(), signature: bytes.to_vec() };
    assert!(open(&policy, &to).is_err(), "a signature that nobody made");
    if let Ok(report) = Report::decode(bytes) {
        let mut head = Head::default();
        for alarm in &report.alarms {
            if head.place(alarm) != Place::Again {
                head.advance(alarm);
            }
        }
    }
}

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
        read_all(&bytes);
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
        read_all(&bytes);
    }
}
