//! The commands that talk to the Security Server.

pub(crate) mod admin;
pub(crate) mod alarms;
pub(crate) mod node;
pub(crate) mod policy;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use sigil_cluster::channel::connect;
use sigil_cluster::proto::admin_client::AdminClient;
use sigil_cluster::proto::{MAX_MESSAGE, StatusRequest};
use sigil_cluster::{Credential, tls};
use sigil_policy::instead;
use tonic::transport::Channel;

/// Where a credential lies unless another is named.
const CREDENTIAL: &str = "/etc/sigil/admin.toml";

/// Who asks the server.
#[derive(clap::Args)]
pub(crate) struct Access {
    /// The administrator's credential, which `sigil-server init` made
    #[arg(long, env = "SIGIL_ADMIN", default_value = CREDENTIAL, value_name = "FILE")]
    admin: PathBuf,
}

impl Access {
    /// Whether there is a server to ask: a credential was named, or lies where one is expected.
    pub(crate) fn is_there(&self) -> bool {
        self.admin != Path::new(CREDENTIAL) || self.admin.exists()
    }

    fn credential(&self) -> Result<Credential> {
        Credential::load(&self.admin)
            .context("no credential of an administrator: name one with --admin")
    }

    /// Connects, and does something with the server.
    fn with<T, F: Future<Output = Result<T>>>(
        &self,
        act: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> Result<T> {
        let credential = self.credential()?;
        let tls = Arc::new(tls::client(&credential)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let connected = connect(&credential.servers, 0, tls, None).await?;
            let client = AdminClient::new(connected.channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            act(client).await
        })
    }
}

/// What the policy in force calls its nodes.
struct Names(BTreeMap<u32, String>);

impl Names {
    async fn of(server: &mut AdminClient<Channel>) -> Result<Self> {
        let status = server.status(StatusRequest {}).await.map_err(|e| refused(&e))?.into_inner();
        let named = status.nodes.into_iter().filter(|node| !node.name.is_empty());
        Ok(Self(named.map(|node| (node.snid, node.name)).collect()))
    }

    /// A node by its id or name.
    fn snid(&self, word: &str) -> Result<u32> {
        let named = || self.0.iter().find(|(_, name)| *name == word).map(|(snid, _)| *snid);
        word.parse().ok().or_else(named).with_context(|| {
            let instead = instead(word, self.0.values().map(String::as_str));
            format!("the policy in force declares no node `{word}`: {instead}")
        })
    }
}

/// A node by its id, for which nobody need be asked, or by its name in the policy in force.
async fn snid(server: &mut AdminClient<Channel>, word: &str) -> Result<u32> {
    match word.parse() {
        Ok(snid) => Ok(snid),
        Err(_) => Names::of(server).await?.snid(word),
    }
}

/// What the server refused, in its own words.
fn refused(refusal: &tonic::Status) -> anyhow::Error {
    anyhow!("the server: {}", refusal.message())
}

fn seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// So many seconds, in the largest unit that says enough.
fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{} s", seconds.max(0)),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
