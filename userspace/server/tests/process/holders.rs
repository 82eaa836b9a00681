//! One node and several servers: it is attached to one of them, its copy to none, and moving is no event.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sigil_cluster::Credential;
use sigil_cluster::proto::{Ping, StatusReply, node_message};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::alarms::kept;
use crate::bed::{Node, PATIENCE, Server, policy};
use crate::etcd::Etcd;

/// Longer than a server waits for another one, and shorter than an agent waits for a server.
const MOVED: Duration = Duration::from_millis(4500);

fn at(credential: &Credential, server: &Server) -> Credential {
    let mut credential = credential.clone();
    credential.servers = vec![server.address];
    credential
}

/// A node that goes on until it is told to end, and then is handed back.
fn live(mut node: Node) -> (watch::Sender<bool>, JoinHandle<Result<Node>>) {
    let (end, mut ended) = watch::channel(false);
    let task = tokio::spawn(async move {
        while !*ended.borrow_and_update() {
            node.step().await.context("the node lost its server")?;
        }
        Ok(node)
    });
    (end, task)
}

async fn until(server: &Server, what: &str, fits: impl Fn(&StatusReply) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = server.status().await?;
        if fits(&status) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn attached(status: &StatusReply) -> bool {
    status.nodes.iter().any(|node| node.snid == 1 && node.attached)
}

async fn no_clone(servers: &[&Server]) -> Result<()> {
    for server in servers {
        let told = kept(server, "node-cloned").await?;
        ensure!(told.is_empty(), "{told:?}");
    }
    Ok(())
}

/// Memory and all: the copy has the same instance of the same counters. It asks another server of the
/// same etcd than its original's, over and over, and gets neither keys nor a policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(has_etcd), ignore = "no etcd: apt-get install etcd-server")]
async fn a_copy_at_another_server_is_refused_and_its_original_stays() -> Result<()> {
    let etcd = Etcd::start()?;
    let one = Server::start_on("lab", &etcd.urls())?;
    let two = one.beside()?;
    let credential = one.join(1).await?;
    let mut original = Node::attach(&at(&credential, &one), 1).await?;
    original.until(|node| node.keys.is_some()).await?;
    let (end, original) = live(original);
    // The copy, and one that has other counters.
    for instance in [1, 1, 9] {
        for server in [&two, &one] {
            let copy = Node::attach(&at(&credential, server), instance).await;
            let refused = format!("{:#}", copy.err().context("the copy was let in")?);
            assert!(refused.contains("clone"), "{refused}");
        }
    }
    for server in [&one, &two] {
        until(server, "one node", attached).await?;
        let deadline = Instant::now() + PATIENCE;
        while kept(server, "node-cloned").await?.is_empty() {
            ensure!(Instant::now() < deadline, "no alarm");
        }
    }
    // Whichever server is asked.
    for (serial, server) in [(1, &two), (2, &one)] {
        assert!(server.push(&policy(serial, 7)).await?.accepted);
        until(server, "the policy", |status| {
            status.nodes.iter().any(|node| node.snid == 1 && node.serial == serial)
        })
        .await?;
    }
    end.send_replace(true);
    original.await??;
    Ok(())
}

/// Servers die, lines break with messages in them, agents give up and turn to another server: all of it
/// happens to one machine alone, and none of it is called a clone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(has_etcd), ignore = "no etcd: apt-get install etcd-server")]
async fn a_node_that_goes_from_server_to_server_is_no_clone() -> Result<()> {
    const MOVES: u32 = 30;
    let etcd = Etcd::start()?;
    let mut one = Server::start_on("lab", &etcd.urls())?;
    let two = one.beside()?;
    let credential = one.join(1).await?;
    let mut node = Node::attach(&at(&credential, &one), 1).await?;
    node.until(|node| node.keys.as_ref().is_some_and(|keys| keys.stamp != 0)).await?;
    let keys = one.status().await?.keys;
    let began = Instant::now();
    for turn in 1..=MOVES {
        // What it said last is under way, and nobody reads it.
        for number in 0..8 {
            node.say(node_message::Body::Ping(Ping { number })).await?;
        }
        let server = if turn % 2 == 1 { &two } else { &one };
        if turn % 5 == 0 {
            // It turned to another server, gave up at once and came back.
            let other = at(&credential, if turn % 2 == 1 { &one } else { &two });
            let gives_up = Node::attach(&other, 1);
            let _ = tokio::time::timeout(Duration::from_millis(u64::from(turn)), gives_up).await;
        }
        node = node.again(&at(&credential, server), 1).await?;
        node.until(|node| node.keys.is_some()).await?;
    }
    println!("{MOVES} moves in {:?}", began.elapsed());
    no_clone(&[&one, &two]).await?;
    // Its last server is the first one: a line that is silent, and not closed, is over.
    let mut silent = node;
    let late = async {
        // Delayed on the way.
        for number in 0..10 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            silent.say(node_message::Body::Ping(Ping { number })).await?;
        }
        anyhow::Ok(silent)
    };
    let began = Instant::now();
    let moved = at(&credential, &two);
    let (node, silent) = tokio::join!(Node::attach(&moved, 1), late);
    let (mut node, silent) = (node?, silent?);
    node.until(|node| node.keys.is_some()).await?;
    assert!(began.elapsed() < MOVED, "{:?}", began.elapsed());
    assert!(silent.end().await?.contains("once more"));
    until(&one, "attached", attached).await?;
    // Its server dies, and cannot say whether the node lives.
    let back = node.again(&at(&credential, &one), 1).await?;
    one.kill()?;
    let began = Instant::now();
    let mut node = back.again(&at(&credential, &two), 1).await?;
    assert!(began.elapsed() < MOVED, "{:?}", began.elapsed());
    assert!(two.push(&policy(1, 7)).await?.accepted);
    node.until(|node| node.progress.serial == 1).await?;
    // And comes back, with a name of its own.
    one.resume()?;
    let mut node = node.again(&at(&credential, &one), 1).await?;
    node.until(|node| node.keys.is_some()).await?;
    until(&two, "attached", attached).await?;
    no_clone(&[&one, &two]).await?;
    assert_eq!(two.status().await?.keys, keys, "it was taken for one without its counters");
    Ok(())
}
