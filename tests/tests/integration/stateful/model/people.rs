//! Sessions and their cleanup, memories, handoffs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Answer, Memory, Model, Session, name, time};

const ACTIVE_SECONDS: i64 = 15 * 60;
const DUPLICATE_SECONDS: i64 = 3600;
const DAY: f64 = 24.0 * 3600.0;

fn id(session: u8) -> Value {
    json!(format!("session-{session}"))
}

fn tag(n: u8) -> Value {
    json!(format!("tag-{n}"))
}

impl Model {
    pub(super) fn register(&mut self, who: usize, session: u8) -> Answer {
        let now = self.now;
        match self.sessions.get_mut(&session) {
            Some(known) if known.agent != who => {
                return Answer::ok(json!({"success": false, "session_id": null, "reason": "session_owned_by_other"}));
            }
            Some(known) => {
                if known.ended {
                    (known.ended, known.started_at) = (false, now);
                }
                known.last_heartbeat = now;
            }
            None => {
                let started = Session { agent: who, started_at: now, last_heartbeat: now, ended: false };
                self.sessions.insert(session, started);
            }
        }
        Answer::ok(json!({"success": true, "session_id": id(session), "reason": null}))
    }

    pub(super) fn heartbeat(&mut self, who: usize, session: Option<u8>) -> Answer {
        // Without a name it is the one that was heard of last, a live one before those that ended.
        let newest = || {
            let own = self.sessions.iter().filter(|(_, known)| known.agent == who);
            own.min_by_key(|(n, known)| (known.ended, -known.last_heartbeat, -known.started_at, **n)).map(|(n, _)| *n)
        };
        let refused = |session: Option<u8>, reason: &str| {
            Answer::ok(json!({"success": false, "session_id": session.map(id), "reason": reason}))
        };
        let found = session.or_else(newest).filter(|n| self.sessions.get(n).is_some_and(|known| known.agent == who));
        let Some(n) = found else { return refused(session, "session_not_found") };
        let now = self.now;
        let known = self.sessions.get_mut(&n).unwrap();
        if known.ended {
            return refused(Some(n), "session_ended");
        }
        known.last_heartbeat = now;
        Answer::ok(json!({"success": true, "session_id": id(n), "reason": null}))
    }

    fn standing(&self, session: &Session) -> &'static str {
        match session.ended {
            true => "disconnected",
            false if self.now < session.last_heartbeat + ACTIVE_SECONDS => "active",
            false => "idle",
        }
    }

    pub(super) fn sessions_of(&self, status: Option<&str>) -> Answer {
        let fits = |known: &Session| match status {
            Some(status) => self.standing(known) == status,
            None => !known.ended,
        };
        let mut found: Vec<(u8, &Session)> =
            self.sessions.iter().filter(|(_, known)| fits(known)).map(|(n, known)| (*n, known)).collect();
        found.sort_by_key(|(n, known)| (-known.last_heartbeat, *n));
        let shown = found.into_iter().map(|(n, known)| {
            json!({
                "agent_id": name(known.agent),
                "session_id": id(n),
                "status": self.standing(known),
                "last_heartbeat": time(known.last_heartbeat),
                "started_at": time(known.started_at),
            })
        });
        Answer::ok(json!({"items": shown.collect::<Vec<_>>()}))
    }

    /// Those a cleanup would find gone: with a session, and no sign of them for a minute.
    fn gone(&self) -> impl Iterator<Item = usize> + '_ {
        let minute = self.now - 60;
        let is_gone = move |known: &&Session| {
            !known.ended
                && known.last_heartbeat <= minute
                && self.agents[known.agent].last_seen.is_none_or(|at| at <= minute)
        };
        self.sessions.values().filter(is_gone).map(|known| known.agent)
    }

    /// Whether a cleanup would find somebody gone.
    pub(crate) fn is_someone_gone(&self) -> bool {
        self.gone().next().is_some()
    }

    /// Whether one of those has left a task that would be given back to the queue.
    pub(crate) fn is_claim_left(&self) -> bool {
        self.gone().any(|agent| self.claims_left(agent, self.now - 60).into_iter().any(|n| self.is_retried(n)))
    }

    pub(super) fn cleanup(&mut self, minutes: i64, dry_run: bool) -> Answer {
        let cutoff = self.now - minutes * 60;
        let is_live = |known: &&Session| !known.ended;
        let stale: Vec<u8> = self
            .sessions
            .iter()
            .filter(|(_, known)| is_live(known) && known.last_heartbeat <= cutoff)
            .map(|(n, _)| *n)
            .collect();
        let suspects: BTreeSet<usize> = stale.iter().map(|n| self.sessions[n].agent).collect();
        let is_there = |agent: usize| {
            let fresh = self.sessions.values().filter(is_live).any(|k| k.agent == agent && k.last_heartbeat > cutoff);
            fresh || self.agents[agent].last_seen.is_some_and(|at| at > cutoff)
        };
        let mut gone: Vec<usize> = suspects.into_iter().filter(|agent| !is_there(*agent)).collect();
        gone.sort_by_key(|agent| name(*agent));
        let locks: Vec<usize> = gone.iter().flat_map(|agent| self.locks_left(*agent, cutoff)).collect();
        let claims: Vec<usize> = gone.iter().flat_map(|agent| self.claims_left(*agent, cutoff)).collect();
        let requeued = claims.iter().filter(|n| self.is_retried(**n)).count();
        let answer = json!({
            "success": true,
            "agents_cleaned": gone.len(),
            "locks_released": locks.len(),
            "tasks_requeued": requeued,
        });
        if !dry_run {
            for n in stale {
                self.sessions.get_mut(&n).unwrap().ended = true;
            }
            for key in locks {
                self.locks.remove(&key);
            }
            for n in claims {
                self.abandon(n);
            }
        }
        Answer::ok(answer)
    }

    pub(super) fn remember(&mut self, who: usize, summary: u8, tag: u8) -> Answer {
        let now = self.now;
        let repeats = |known: &Memory| {
            known.agent == who && known.summary == summary && known.created_at > now - DUPLICATE_SECONDS
        };
        let (n, action) = match self.memories.iter().rposition(repeats) {
            Some(n) => {
                if !self.memories[n].tags.contains(&tag) {
                    self.memories[n].tags.push(tag);
                }
                (n, "deduplicated")
            }
            None => {
                self.memories.push(Memory { agent: who, summary, tags: vec![tag], created_at: now });
                (self.memories.len() - 1, "created")
            }
        };
        Answer::ok(json!({"success": true, "memory_id": format!("memory {n}"), "action": action}))
    }

    #[expect(clippy::cast_precision_loss, reason = "a run is short")]
    pub(super) fn recall(&self, who: usize, all: bool, wanted: Option<u8>) -> Answer {
        let fits = |known: &Memory| (all || known.agent == who) && wanted.is_none_or(|tag| known.tags.contains(&tag));
        let mut found: Vec<usize> = (0..self.memories.len()).filter(|n| fits(&self.memories[*n])).collect();
        found.sort_by_key(|n| (-self.memories[*n].created_at, std::cmp::Reverse(*n)));
        let shown = found.into_iter().map(|n| {
            let known = &self.memories[n];
            let faded = (-0.1 * (self.now - known.created_at) as f64 / DAY).exp();
            json!({
                "id": format!("memory {n}"),
                "agent_id": name(known.agent),
                "summary": format!("summary {}", known.summary),
                "tags": known.tags.iter().map(|n| tag(*n)).collect::<Vec<_>>(),
                "relevance_score": format!("{faded:.6}"),
            })
        });
        Answer::ok(json!({"items": shown.collect::<Vec<_>>()}))
    }

    pub(super) fn hand_off(&mut self, who: usize) -> Answer {
        self.handoffs.push((who, self.now));
        Answer::ok(json!({"success": true, "handoff_id": format!("handoff {}", self.handoffs.len() - 1)}))
    }

    pub(super) fn handoffs_of(&self, of: Option<usize>) -> Answer {
        let written = self.handoffs.iter().enumerate().rev().filter(|(_, (who, _))| of.is_none_or(|of| of == *who));
        let shown = written.map(
            |(n, (who, at))| json!({"id": format!("handoff {n}"), "agent_name": name(*who), "created_at": time(*at)}),
        );
        Answer::ok(json!({"items": shown.collect::<Vec<_>>()}))
    }
}
