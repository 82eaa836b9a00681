//! Reading bytes as everything that comes from outside, a wire or a disk. Fuzzed as well: see
//! `tests/fuzz/fuzz_targets/messages.rs`.

use prost::Message;
use sigil_cluster::chain::{Head, Place};
use sigil_cluster::envelope::{Recipient, open};
use sigil_cluster::proto::{
    AcknowledgeRequest, AddAdminReply, AddAdminRequest, AdminsReply, Alarm, AlarmsRequest,
    ConfirmRequest, DrawTokenReply, DrawTokenRequest, EnrolReply, EnrolRequest, Envelope, Kept,
    NodeMessage, PushReply, PushRequest, RenewReply, RenewRequest, Report, RevokeAdminRequest,
    RevokeRequest, ServerMessage, SignedPolicy, SpoolHead, SpoolRecord, StatusReply,
};
use sigil_cluster::{Identity, Token};

/// What was read is the same when it is written and read again.
fn message<M: Message + Default + PartialEq>(bytes: &[u8]) {
    if let Ok(read) = M::decode(bytes) {
        let again = M::decode(read.encode_to_vec().as_slice());
        assert!(again.is_ok_and(|again| again == read), "it changes when it is written");
    }
    // As in a file of records.
    let _ = M::decode_length_delimited(bytes);
}

/// Every message, certificate, token, signature and chain.
pub(crate) fn everything(bytes: &[u8]) {
    message::<NodeMessage>(bytes);
    message::<ServerMessage>(bytes);
    message::<EnrolRequest>(bytes);
    message::<EnrolReply>(bytes);
    message::<RenewRequest>(bytes);
    message::<RenewReply>(bytes);
    message::<DrawTokenRequest>(bytes);
    message::<DrawTokenReply>(bytes);
    message::<RevokeRequest>(bytes);
    message::<PushRequest>(bytes);
    message::<PushReply>(bytes);
    message::<ConfirmRequest>(bytes);
    message::<StatusReply>(bytes);
    message::<AlarmsRequest>(bytes);
    message::<AcknowledgeRequest>(bytes);
    message::<Alarm>(bytes);
    message::<AddAdminRequest>(bytes);
    message::<AddAdminReply>(bytes);
    message::<RevokeAdminRequest>(bytes);
    message::<AdminsReply>(bytes);
    message::<Envelope>(bytes);
    message::<Kept>(bytes);
    message::<SpoolHead>(bytes);
    message::<SpoolRecord>(bytes);
    let _ = Identity::of_certificate(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = Identity::parse(&text);
    let _ = text.parse::<Token>();
    let to = Recipient { cluster: "lab".into(), snid: 1, key: vec![7; 32] };
    let policy = SignedPolicy { envelope: bytes.to_vec(), signature: bytes.to_vec() };
    assert!(open(&policy, &to).is_err(), "a signature that nobody made");
    if let Ok(report) = Report::decode(bytes) {
        chained(&report);
    }
}

/// A chain goes on, whatever a node says of it.
fn chained(report: &Report) {
    let mut head = Head::default();
    for alarm in &report.alarms {
        if head.place(alarm) != Place::Again {
            head.advance(alarm);
            assert_eq!(head.place(alarm), Place::Again);
        }
    }
}
