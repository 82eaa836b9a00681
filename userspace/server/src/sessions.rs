//! The nodes that are attached to this server, and whether they live.
//!
//! Whoever comes in a node's name is let in only if nobody is attached under it who answers a question
//! that is asked then. What a line that was dropped still brings answers none.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sigil_cluster::proto::{Ping, ServerMessage, server_message};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tonic::Status as Refusal;

use crate::state::lock;
use crate::vault::random;

/// How long a node has to show that it lives; it pings every second.
pub(crate) const PROOF: Duration = Duration::from_millis(2500);

/// Numbers the sessions of this run.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// The way to a node.
pub(crate) type Line = mpsc::Sender<Result<ServerMessage, Refusal>>;

/// See the module.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<BTreeMap<u32, Session>>);

struct Session {
    number: u64,
    instance: String,
    heard: Instant,
    line: Line,
    /// Questions that wait for their answers.
    asked: BTreeMap<u64, oneshot::Sender<()>>,
    /// Dropped to end it.
    _end: watch::Sender<()>,
}

impl Sessions {
    pub(crate) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// Makes room for one who comes in the node's name; false where the node lives already.
    pub(crate) async fn vacate(&self, snid: u32, instance: &str) -> bool {
        loop {
            let (number, gone) = {
                let sessions = lock(&self.0);
                let Some(held) = sessions.get(&snid) else { return true };
                // It dropped its line: a node that lives is heard of more often.
                let gone = held.instance == instance && held.heard.elapsed() >= PROOF;
                (held.number, gone)
            };
            if !gone && self.lives(snid).await {
                return false;
            }
            self.leave(snid, number);
        }
    }

    /// Begins a session, unless somebody was faster: its number, and what says that it is over.
    pub(crate) fn enter(
        &self,
        snid: u32,
        instance: &str,
        line: &Line,
    ) -> Option<(u64, watch::Receiver<()>)> {
        let mut sessions = lock(&self.0);
        if sessions.contains_key(&snid) {
            return None;
        }
        let (end, ended) = watch::channel(());
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let session = Session {
            number,
            instance: instance.to_owned(),
            heard: Instant::now(),
            line: line.clone(),
            asked: BTreeMap::new(),
            _end: end,
        };
        sessions.insert(snid, session);
        Some((number, ended))
    }

    /// Ends a session. Whether nobody is attached under the node's name then.
    pub(crate) fn leave(&self, snid: u32, number: u64) -> bool {
        let mut sessions = lock(&self.0);
        if sessions.get(&snid).is_some_and(|held| held.number == number) {
            sessions.remove(&snid);
        }
        !sessions.contains_key(&snid)
    }

    /// Ends a node's session, if there is one.
    pub(crate) fn end(&self, snid: u32) {
        lock(&self.0).remove(&snid);
    }

    /// Takes note that a message came.
    pub(crate) fn heard(&self, snid: u32, number: u64) {
        self.with(snid, number, |session| session.heard = Instant::now());
    }

    /// Takes note of an answer.
    pub(crate) fn answered(&self, snid: u32, number: u64, question: u64) {
        let asked = self.with(snid, number, |session| session.asked.remove(&question)).flatten();
        // Whoever asked may have given up.
        let _ = asked.map(|asked| asked.send(()));
    }

    fn with<T>(&self, snid: u32, number: u64, act: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let mut sessions = lock(&self.0);
        sessions.get_mut(&snid).filter(|held| held.number == number).map(act)
    }

    /// Asks the node that is attached, if one is, and waits for its answer.
    pub(crate) async fn lives(&self, snid: u32) -> bool {
        let mut question = [0; 8];
        if random(&mut question).is_err() {
            // Then nobody is believed to have gone.
            return true;
        }
        let question = u64::from_ne_bytes(question);
        let (asked, answer) = oneshot::channel();
        let (number, line) = {
            let mut sessions = lock(&self.0);
            let Some(session) = sessions.get_mut(&snid) else { return false };
            session.asked.insert(question, asked);
            (session.number, session.line.clone())
        };
        let exchange = async {
            let body = Some(server_message::Body::Ping(Ping { number: question }));
            // Either fails once the session is over.
            line.send(Ok(ServerMessage { body })).await.is_ok() && answer.await.is_ok()
        };
        let lives = timeout(PROOF, exchange).await.unwrap_or(false);
        self.with(snid, number, |session| session.asked.remove(&question));
        lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(sessions: &Sessions) -> (u64, watch::Receiver<()>, mpsc::Receiver<Question>) {
        let (line, node) = mpsc::channel(4);
        let (number, ended) = sessions.enter(1, "a", &line).unwrap();
        (number, ended, node)
    }

    type Question = Result<ServerMessage, Refusal>;

    fn number(question: Question) -> u64 {
        let Some(server_message::Body::Ping(Ping { number })) = question.unwrap().body else {
            panic!("it asks nothing");
        };
        number
    }

    #[tokio::test]
    async fn one_who_answers_stays_and_one_who_does_not_goes() {
        let sessions = Sessions::default();
        let (session, _ended, mut node) = enter(&sessions);
        let answer = async {
            let question = number(node.recv().await.unwrap());
            sessions.answered(1, session, question);
        };
        let (vacant, ()) = tokio::join!(sessions.vacate(1, "b"), answer);
        assert!(!vacant);
        // Answers to what was asked before, or to nothing, or of another session.
        let wrong = async {
            let question = number(node.recv().await.unwrap());
            sessions.answered(1, session, question.wrapping_add(1));
            sessions.answered(1, session + 1, question);
            sessions.heard(1, session);
        };
        let (vacant, ()) = tokio::join!(sessions.vacate(1, "b"), wrong);
        assert!(vacant && sessions.count() == 0);
    }

    #[tokio::test]
    async fn a_session_that_ends_answers_no() {
        let sessions = Sessions::default();
        let (session, mut ended, mut node) = enter(&sessions);
        let leave = async {
            node.recv().await.unwrap().unwrap();
            assert!(sessions.leave(1, session));
        };
        let (lives, ()) = tokio::join!(sessions.lives(1), leave);
        assert!(!lives && ended.changed().await.is_err());
        assert!(!sessions.lives(1).await);
        let (next, ..) = enter(&sessions);
        assert!(!sessions.leave(1, session), "it ended another's");
        assert!(sessions.leave(1, next));
    }
}
