//! Locks at work: take one, edit under it, give it back; and meddling with others' locks.

use std::time::{Duration, Instant};

use serde_json::json;

use super::ask::Ask;
use super::history::{Class, Expect, Grant, Lost, Taken};
use super::op::Op;
use super::worker::{Held, Worker};

/// Locks that an agent keeps at once.
const KEPT_MAX: usize = 4;

impl Worker {
    /// Takes a lock, edits the file under it, gives the lock back or keeps it for a while.
    pub(super) async fn edit_a_file(&mut self) {
        if self.held.len() >= KEPT_MAX || (!self.held.is_empty() && self.rng.chance(30)) {
            let held = self.held.swap_remove(0);
            self.release(held).await;
            return;
        }
        let file = self.choose_file();
        let Some(held) = self.acquire(file).await else { return };
        self.edit(held).await;
        if self.rng.chance(25) {
            self.renew(held).await;
        }
        if self.rng.chance(85) {
            self.held.retain(|kept| kept.file != held.file);
            self.release(held).await;
        } else if !self.held.iter().any(|kept| kept.file == file) {
            self.held.push(held);
        }
    }

    /// Takes the lock of a file, or refreshes it.
    pub(super) async fn acquire(&mut self, file: usize) -> Option<Held> {
        let kept = self.held.iter().find(|held| held.file == file).copied();
        let ttl = self.rng.between(1, 120);
        let lines = self.world.material.files.get(file).map_or(0, |source| source.lines);
        let body = json!({
            "file_path": self.path_of(file), "ttl_minutes": ttl, "session_id": format!("demo-{}", self.client.who.agent_id),
            "reason": format!("editing {lines} lines"),
        });
        let reply = self.client.call(Ask::new(Op::LockAcquire, Expect::Either, body)).await;
        let token = reply.int("fencing_token").filter(|_| reply.is_allowed())?;
        let expires = after(reply.sent, ttl);
        let grants = &mut self.client.history.grants;
        if let Some(grant) = kept.and_then(|held| grants.get_mut(held.grant)).filter(|grant| grant.token == token) {
            grant.expires = expires;
            return kept;
        }
        if let Some(gone) = kept {
            // Somebody with the trust for it took the lock away meanwhile; nothing else explains a new token.
            self.lose(gone, "its lock was granted anew under another token");
            self.held.retain(|held| held.file != file);
        }
        let (asked, granted, name) = (reply.sent, reply.answered, self.client.who.agent_id.clone());
        let grants = &mut self.client.history.grants;
        grants.push(Grant { agent_id: name.clone(), file, token, asked, granted, released: None, expires });
        let held = Held { file, token, grant: grants.len().saturating_sub(1) };
        self.world.board().held.insert(file, (name, token));
        Some(held)
    }

    /// Reads the file, computes its edited digest, and puts it on the shelf; the token is verified before and after.
    async fn edit(&mut self, held: Held) {
        if !self.verify(held).await {
            return;
        }
        let Some(source) = self.world.material.files.get(held.file).cloned() else { return };
        let edit = format!("\nedited by {} under {}", self.client.who.agent_id, held.token);
        let world = std::sync::Arc::clone(&self.world);
        let digest = tokio::task::spawn_blocking(move || world.material.edited_digest(&source, &edit)).await;
        // A file that went away meanwhile is an edit that did not happen.
        let Ok(Ok(digest)) = digest else { return };
        if !self.world.board().shelve(held.file, held.token, digest) {
            self.lose(held, "its edit came after one under a newer token");
            return;
        }
        self.client.history.edits += 1;
        self.verify(held).await;
    }

    async fn verify(&mut self, held: Held) -> bool {
        let body = json!({"file_path": self.path_of(held.file), "fencing_token": held.token});
        let reply = self.client.call(Ask::new(Op::LockVerify, Expect::Either, body)).await;
        if let Class::Conflict(reason) = &reply.class {
            let what = format!("its token was no longer valid ({reason})");
            self.lose(held, &what);
        }
        reply.is_allowed()
    }

    async fn renew(&mut self, held: Held) {
        let ttl = self.rng.between(1, 120);
        let body = json!({"file_path": self.path_of(held.file), "fencing_token": held.token, "ttl_minutes": ttl});
        let reply = self.client.call(Ask::new(Op::LockRenew, Expect::Either, body)).await;
        match &reply.class {
            Class::Allowed => {
                if let Some(grant) = self.client.history.grants.get_mut(held.grant) {
                    grant.expires = after(reply.sent, ttl);
                }
            }
            Class::Conflict(reason) => {
                let what = format!("its lock could not be renewed ({reason})");
                self.lose(held, &what);
            }
            _ => {}
        }
    }

    /// Gives a lock back; where policy keeps the agent from it, the lock stays and is tried again.
    pub(super) async fn release(&mut self, held: Held) {
        let mut body = json!({"file_path": self.path_of(held.file), "agent_id": self.client.who.agent_id});
        if self.rng.chance(80)
            && let Some(map) = body.as_object_mut()
        {
            map.insert("fencing_token".to_owned(), json!(held.token));
        }
        let reply = self.client.call(Ask::new(Op::LockRelease, Expect::Either, body)).await;
        let grant = self.client.history.grants.get_mut(held.grant);
        match &reply.class {
            Class::Denied(_) if !self.world.is_stopped() => {
                self.held.push(held);
                return;
            }
            Class::Denied(_) => return,
            Class::Conflict(reason) => {
                let what = format!("its lock was gone at release ({reason})");
                self.lose(held, &what);
            }
            _ => {
                if let Some(grant) = grant {
                    grant.released = Some(reply.sent);
                }
            }
        }
        let mut board = self.world.board();
        if board.held.get(&held.file).is_some_and(|(_, token)| *token == held.token) {
            board.held.remove(&held.file);
        }
    }

    fn lose(&mut self, held: Held, what: &str) {
        self.client.history.lost.push(Lost { file: held.file, token: held.token, what: what.to_owned() });
    }

    /// A lock that another agent said it holds.
    pub(super) fn foreign_lock(&mut self) -> Option<(usize, i64)> {
        let own = self.client.who.agent_id.clone();
        let held: Vec<(usize, i64)> = {
            let board = self.world.board();
            board
                .held
                .iter()
                .filter(|(_, (holder, _))| *holder != own)
                .map(|(file, (_, token))| (*file, *token))
                .collect()
        };
        self.rng.pick(&held).copied()
    }

    /// Takes what another holds, releases it, renews under its token, or uses a claim that ended.
    pub(super) async fn collide(&mut self) {
        match (self.rng.below(4), self.foreign_lock()) {
            (0, Some((file, _))) if !self.held.iter().any(|held| held.file == file) => {
                if let Some(held) = self.acquire(file).await {
                    self.release(held).await;
                }
            }
            (1, Some((file, token))) => {
                // The token says whose lock is meant, so this cannot hit one of the agent's own.
                let body = json!({"file_path": self.path_of(file), "fencing_token": token});
                self.client.call(Ask::new(Op::LockRelease, Expect::Conflict, body)).await;
            }
            (2, Some((file, token))) => {
                let body = json!({"file_path": self.path_of(file), "fencing_token": token, "ttl_minutes": 5});
                self.client.call(Ask::new(Op::LockRenew, Expect::Conflict, body)).await;
            }
            _ => self.use_an_old_claim().await,
        }
    }

    /// Frees a lock whoever holds it, for which the agent's trust is enough.
    pub(super) async fn force_release(&mut self) {
        let Some((file, _)) = self.foreign_lock() else { return };
        let path = self.path_of(file);
        let ask = Ask::new(Op::LockForceRelease, Expect::Either, json!(null)).segment("file_path", &path);
        let reply = self.client.call(ask).await;
        if reply.class != Class::Conflict("not_locked".to_owned()) {
            self.client.history.taken.push(Taken { what: path, sent: reply.sent, answered: reply.answered });
        }
    }
}

/// So many minutes later.
fn after(at: Instant, minutes: i64) -> Instant {
    at + Duration::from_secs(u64::try_from(minutes).unwrap_or(0).saturating_mul(60))
}
