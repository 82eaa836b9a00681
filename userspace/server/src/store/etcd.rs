//! etcd, for several servers.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

use super::{Store, StoreError, Stored, Transaction};
use api::compare::TargetUnion;
use api::request_op::Request as Change;
use api::watch_request::RequestUnion;

#[expect(
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; etcd describes it"
)]
mod api {
    tonic::include_proto!("etcdserverpb");
}

/// Changes that wait to be taken note of.
const QUEUE: usize = 1024;
/// One request takes no longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// `Compare.target`, `Compare.result` and `Event.type`.
const MOD_REVISION: i32 = 2;
const EQUAL: i32 = 0;
const PUT: i32 = 0;
/// The longest answer: a document's chunks come together.
const MAX_MESSAGE: usize = 32 << 20;
/// How often a request is tried that no member answered.
const ATTEMPTS: usize = 5;

/// Records under one prefix of an etcd cluster.
pub(crate) struct Etcd {
    channel: Channel,
    prefix: String,
}

/// How an etcd that is reached by TLS is told from others, and what it tells this server by. PEM.
pub(crate) struct Credentials {
    pub(crate) ca: Vec<u8>,
    /// A certificate and its key.
    pub(crate) own: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl Etcd {
    /// Uses any of the endpoints that answers, from the first request on.
    pub(crate) fn connect(
        endpoints: &[String],
        cluster: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self, StoreError> {
        let tls = credentials.map(|Credentials { ca, own }| {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            match own {
                Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, &**key)),
                None => tls,
            }
        });
        let endpoint = |url: &String| {
            let wrong = |error| StoreError::Endpoint { url: url.clone(), source: error };
            let mut endpoint = Endpoint::from_shared(url.clone()).map_err(wrong)?;
            if let Some(tls) = &tls {
                endpoint = endpoint.tls_config(tls.clone()).map_err(wrong)?;
            }
            Ok(endpoint
                .connect_timeout(PATIENCE)
                .http2_keep_alive_interval(Duration::from_secs(1))
                .keep_alive_timeout(Duration::from_secs(1))
                .keep_alive_while_idle(true))
        };
        let endpoints: Result<Vec<_>, StoreError> = endpoints.iter().map(endpoint).collect();
        let channel = Channel::balance_list(endpoints?.into_iter());
        Ok(Self { channel, prefix: format!("/sigil/{cluster}/") })
    }

    fn at(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    fn kv(&self) -> api::kv_client::KvClient<Channel> {
        api::kv_client::KvClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn stored(&self, kv: api::KeyValue, gone: bool) -> Option<Stored> {
        let key = str::from_utf8(&kv.key).ok()?.strip_prefix(&self.prefix)?.to_owned();
        let value = (!gone).then_some(kv.value);
        Some(Stored { key, value, version: number(kv.mod_revision) })
    }
}

fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

/// The end of the range of all keys that begin with `prefix`, which ends in no 0xff.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.wrapping_add(1);
    }
    end
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

#[async_trait]
impl Store for Etcd {
    async fn scan(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        let key = self.at(prefix);
        let range = api::RangeRequest { range_end: after(&key), key };
        let mut attempt = 1;
        let found = loop {
            match self.kv().range(timed(range.clone())).await {
                Ok(found) => break found.into_inner(),
                // The next try may go to another member.
                Err(error) if attempt == ATTEMPTS => return Err(Box::new(error).into()),
                Err(_) => attempt += 1,
            }
            tokio::time::sleep(PATIENCE / 10).await;
        };
        Ok(found.kvs.into_iter().filter_map(|kv| self.stored(kv, false)).collect())
    }

    async fn commit(&self, transaction: Transaction) -> Result<Option<u64>, StoreError> {
        let compare = transaction.expect.iter().map(|(key, version)| api::Compare {
            result: EQUAL,
            target: MOD_REVISION,
            key: self.at(key),
            target_union: Some(TargetUnion::ModRevision(
                i64::try_from(*version).unwrap_or(i64::MAX),
            )),
        });
        let puts = transaction
            .put
            .into_iter()
            .map(|(key, value)| Change::RequestPut(api::PutRequest { key: self.at(&key), value }));
        let deletes = transaction
            .delete
            .iter()
            .map(|key| Change::RequestDeleteRange(api::DeleteRangeRequest { key: self.at(key) }));
        let change = |request| api::RequestOp { request: Some(request) };
        let whole = api::TxnRequest {
            compare: compare.collect(),
            success: puts.chain(deletes).map(change).collect(),
        };
        let done = self.kv().txn(timed(whole)).await.map_err(Box::new)?.into_inner();
        let version = done.header.map_or(0, |header| number(header.revision));
        Ok(done.succeeded.then_some(version))
    }

    fn shared(&self) -> bool {
        true
    }

    async fn watch(&self) -> Result<Option<mpsc::Receiver<Stored>>, StoreError> {
        let key = self.prefix.clone().into_bytes();
        let create = api::WatchCreateRequest { range_end: after(&key), key, start_revision: 0 };
        let create = api::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // Held by the task, for the watch ends with what is sent to it.
        let (wishes, asked) = mpsc::channel(1);
        let _ = wishes.send(create).await;
        let mut client = api::watch_client::WatchClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE);
        let watched = client.watch(ReceiverStream::new(asked)).await.map_err(Box::new)?;
        let mut events = watched.into_inner();
        // From here on nothing is missed.
        let created = events.message().await.map_err(Box::new)?;
        if created.is_none_or(|first| !first.created || first.canceled) {
            return Err(Box::new(tonic::Status::unavailable("the watch was refused")).into());
        }
        let (to, from) = mpsc::channel(QUEUE);
        let this = Self { channel: self.channel.clone(), prefix: self.prefix.clone() };
        tokio::spawn(async move {
            let _wishes = wishes;
            while let Ok(Some(changes)) = events.message().await {
                if changes.canceled {
                    return;
                }
                for event in changes.events {
                    let stored = event.kv.and_then(|kv| this.stored(kv, event.r#type != PUT));
                    if let Some(stored) = stored
                        && to.send(stored).await.is_err()
                    {
                        return;
                    }
                }
            }
        });
        Ok(Some(from))
    }
}
