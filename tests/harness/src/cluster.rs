//! A lab with an agent on every node that a policy declares.

use crate::{Agent, Config, Lab, Middlebox, Node, Server, Tampering, binary};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running cluster. The nodes are named and addressed as the policy says.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    /// The lab, to add hosts that the policy does not know.
    pub lab: Lab,
}

/// One node of a [`Cluster`].
#[derive(Debug)]
pub struct Member {
    /// Its agent's configuration.
    pub config: Config,
    /// Its agent, while one runs.
    pub agent: Option<Agent>,
    /// The node.
    pub node: Node,
}

/// What tells clusters apart.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// The DSP document.
    pub policy: &'a str,
    /// The suite of the keys, as `labelctl keys generate` names it; none makes no keys.
    pub suite: Option<&'a str>,
    /// Where ingress verifies: `auto`, `xdp` or `tc`.
    pub mode: &'a str,
}

impl Setting<'_> {
    /// Authenticated with SipHash, verified wherever the agent thinks best.
    #[must_use]
    pub fn of(policy: &str) -> Setting<'_> {
        Setting { policy, suite: Some("siphash-2-4-96"), mode: "auto" }
    }
}

impl Cluster {
    /// Builds the lab, makes the keys and starts all agents.
    ///
    /// # Errors
    ///
    /// The policy or an agent does not start.
    pub fn start(name: &str, setting: &Setting) -> Result<Self> {
        let mut cluster = Self::prepare(name, setting)?;
        cluster.members.iter_mut().try_for_each(Member::start)?;
        Ok(cluster)
    }

    /// As [`Cluster::start`], but the agents are left to the caller.
    ///
    /// # Errors
    ///
    /// The policy declares no nodes of this lab.
    pub fn prepare(name: &str, setting: &Setting) -> Result<Self> {
        let lab = Lab::new(name)?;
        let plug = |declared: Declared| {
            let node = lab.node(&declared.name, declared.address.octets()[3])?;
            Ok((node, declared))
        };
        let nodes = declared_nodes(setting.policy)?.into_iter().map(plug);
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        Self::assemble(lab, nodes, setting)
    }

    /// Two nodes, 10.77.0.1 and 10.77.0.2, with a box on the wire between them; the agents run.
    ///
    /// # Errors
    ///
    /// The policy declares other nodes, or an agent does not start.
    pub fn across(
        name: &str,
        setting: &Setting,
        tampering: Tampering,
    ) -> Result<(Self, Middlebox)> {
        let lab = Lab::new(name)?;
        let declared: Result<[Declared; 2], _> = declared_nodes(setting.policy)?.try_into();
        let Ok([first, second]) = declared else { bail!("the policy declares not two nodes") };
        let (one, two, middlebox) = lab.middlebox(&first.name, &second.name, tampering)?;
        let mut cluster = Self::assemble(lab, vec![(one, first), (two, second)], setting)?;
        cluster.members.iter_mut().try_for_each(Member::start)?;
        Ok((cluster, middlebox))
    }

    /// As [`Cluster::start`], under a Security Server on a host of its own, 10.77.0.100, which no
    /// policy knows. `settings` go below the server's configuration.
    ///
    /// # Errors
    ///
    /// The server or an agent does not start, or a node does not follow.
    pub fn under_server(
        name: &str,
        setting: &Setting,
        settings: &str,
    ) -> Result<(Self, Node, Server)> {
        let mut cluster = Self::prepare(name, &Setting { suite: None, ..setting.clone() })?;
        let host = cluster.lab.node("ss", 100)?;
        let named = roxmltree::Document::parse(setting.policy)?;
        let named = named.root_element().attribute("cluster").context("no cluster")?.to_owned();
        let server = Server::start(&host, &named, settings)?;
        let policy = cluster.members.first().context("the policy declares no node")?;
        server.administer(&host, &["policy", "push", &policy.config.policy.to_string_lossy()])?;
        for member in &mut cluster.members {
            let (snid, mode) = (member.config.snid, member.config.mode.clone());
            member.config = Config { mode, ..Config::under_server(&member.node, snid) };
            server.join(&host, &member.node, snid, &member.config.write(&member.node)?)?;
            member.start()?;
        }
        server.settled(&host)?;
        Ok((cluster, host, server))
    }

    fn assemble(lab: Lab, nodes: Vec<(Node, Declared)>, setting: &Setting) -> Result<Self> {
        let mut members = Vec::new();
        for (node, declared) in nodes {
            ensure!(node.address() == declared.address, "{} is no 10.77.0.N", declared.address);
            let policy = node.directory().join("policy.xml");
            fs::write(&policy, setting.policy)?;
            let mut config = Config::new(&node, declared.snid, &policy, None);
            config.mode = setting.mode.into();
            members.push(Member { config, agent: None, node });
        }
        if let Some(suite) = setting.suite {
            let first = members.first().context("the policy declares no node")?;
            let directory = first.node.directory().join("keys");
            generate_keys(&first.config.policy, suite, 2, &directory)?;
            for member in &mut members {
                member.config.keys = Some(key_file(&directory, member.config.snid));
            }
        }
        Ok(Self { members, lab })
    }

    /// A member by its name in the policy.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn member(&mut self, name: &str) -> Result<&mut Member> {
        let found = self.members.iter_mut().find(|member| member.node.name() == name);
        found.with_context(|| format!("no node {name}"))
    }

    /// A node by its name in the policy.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.members.iter().find(|member| member.node.name() == name);
        Ok(&found.with_context(|| format!("no node {name}"))?.node)
    }

    /// All nodes, in the policy's order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.members.iter().map(|member| &member.node)
    }
}

impl Member {
    /// Starts the agent.
    ///
    /// # Errors
    ///
    /// See [`Agent::start`].
    pub fn start(&mut self) -> Result<()> {
        self.agent = None;
        self.agent = Some(Agent::start(&self.node, &self.config)?);
        Ok(())
    }

    /// The agent.
    ///
    /// # Errors
    ///
    /// None runs.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().with_context(|| format!("no agent on {}", self.node.name()))
    }

    /// Takes the agent, to end it.
    ///
    /// # Errors
    ///
    /// None runs.
    pub fn take_agent(&mut self) -> Result<Agent> {
        self.agent.take().with_context(|| format!("no agent on {}", self.node.name()))
    }
}

/// Makes the keys of all nodes of a policy, for some epochs: a file for each node.
///
/// # Errors
///
/// What `labelctl keys generate` says.
pub fn generate_keys(policy: &Path, suite: &str, epochs: u32, out: &Path) -> Result<()> {
    let output = Command::new(binary("labelctl")?)
        .args(["keys", "generate", "--suite", suite, "--epochs", &epochs.to_string()])
        .arg("--policy")
        .arg(policy)
        .arg("--out")
        .arg(out)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "labelctl keys generate: {stderr}");
    Ok(())
}

/// The file of a node's keys that [`generate_keys`] wrote.
#[must_use]
pub fn key_file(directory: &Path, snid: u32) -> PathBuf {
    directory.join(format!("node-{snid}.toml"))
}

struct Declared {
    snid: u32,
    name: String,
    address: Ipv4Addr,
}

fn declared_nodes(policy: &str) -> Result<Vec<Declared>> {
    let document = roxmltree::Document::parse(policy)?;
    let text = |node: roxmltree::Node, name: &str| -> Result<String> {
        let child = node.children().find(|child| child.has_tag_name(name));
        let text = child.and_then(|child| child.text()).with_context(|| format!("no <{name}>"))?;
        Ok(text.trim().into())
    };
    let nodes = document.root_element().children().filter(|child| child.has_tag_name("node"));
    nodes
        .map(|node| {
            Ok(Declared {
                snid: text(node, "SnID")?.parse()?,
                name: text(node, "name")?,
                address: text(node, "address")?.parse()?,
            })
        })
        .collect()
}

/// Makes two tests of each function `fn(mode: &str) -> anyhow::Result<()>`: one where ingress is
/// verified in TC, one where in XDP.
#[macro_export]
macro_rules! in_both_modes {
    ($($name:ident)+) => {
        mod tc { $(#[test] fn $name() -> anyhow::Result<()> { super::$name("tc") })+ }
        mod xdp { $(#[test] fn $name() -> anyhow::Result<()> { super::$name("xdp") })+ }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_taken_from_the_policy() {
        let nodes = declared_nodes(
            "<DSP cluster='lab' serial='1'><node><SnID> 1 </SnID><name> web </name>\
             <address> 10.77.0.1 </address></node><zone/></DSP>",
        )
        .unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].snid, nodes[0].name.as_str()), (1, "web"));
    }
}
