//! What the service's log tells of calls without an answer.
//!
//! A call that nobody answered may have taken effect at any moment, or never. Where there are many of them nearly everything is
//! possible: little can be found wrong, and the search grows without end. So the log is read once the run is over. It has one row for
//! each change, written in the change's transaction under the name of the request. A call without such a row did nothing; of one
//! with a row it is known what it would have been answered, and by which clock it was decided.
//!
//! The log takes nobody's word: what clients were told is never replaced by it, and what it tells of the others has to fit to that like
//! any answer. A call that repeats another one under its `Idempotency-Key` has a row of its own that changes nothing; the effect is the
//! first one's, as it is here.

use serde::{Deserialize, Serialize};

use super::{Answer, Call, History};

/// What the log has of a call without an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "snake_case")]
pub enum Logged {
    /// No change: it did nothing, and never will.
    Nothing,
    /// A change.
    Change {
        /// What it would have been answered.
        told: Answer,
        /// The server's clock by which it was decided.
        clock_us: i64,
        /// The instant of the run at which the log was read: by then it had taken effect.
        known_us: i64,
    },
}

impl History {
    /// Closes the calls without an answer by a log that was read at an instant of the run. `row` finds the change of a call: what it
    /// would have been answered, and the server's clock by which it was decided.
    pub fn close(&mut self, known_us: i64, row: impl Fn(&Call) -> Option<(Answer, i64)>) {
        for call in self.calls.iter_mut().filter(|call| call.answer.is_none()) {
            let change = row(call).map(|(told, clock_us)| Logged::Change { told, clock_us, known_us });
            call.logged = Some(change.unwrap_or(Logged::Nothing));
        }
    }
}

impl Call {
    /// Whether only the log tells that it changed something.
    #[must_use]
    pub const fn is_logged(&self) -> bool {
        matches!(self.logged, Some(Logged::Change { .. }))
    }

    /// The call, with what the log tells in the place of an answer that never came. It took effect before the log was read, and before
    /// it was settled.
    pub(super) fn resolved(&self) -> Self {
        match (&self.answer, &self.logged) {
            (None, Some(Logged::Nothing)) => Self { answer: Some(Answer::Failed), ..self.clone() },
            (None, Some(Logged::Change { told, known_us, .. })) => {
                let until = self.settled_us.map_or(*known_us, |settled| settled.min(*known_us)).max(self.returned_us);
                let wall = self.wall_returned_us.saturating_add(until.saturating_sub(self.returned_us));
                Self { answer: Some(told.clone()), returned_us: until, wall_returned_us: wall, ..self.clone() }
            }
            _ => Self { logged: None, ..self.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::check;
    use super::super::wrong::{
        MS, call, claim, claimed, clock, get, history, locks, minute_from, second_from, submit, tasks,
    };
    use super::*;

    const KNOWN_US: i64 = 3000 * MS;

    fn granted(token: i64, at: i64) -> Answer {
        Answer::Granted { token, expires_at: minute_from(at) }
    }

    /// The locks, of which one acquisition has no answer: nobody saw an effect of it, and it is settled after 50 milliseconds.
    fn closed(settled_us: Option<i64>, row: Option<(Answer, i64)>) -> History {
        let mut history = locks();
        history.calls.iter_mut().filter(|call| call.answer.is_none()).for_each(|call| call.settled_us = settled_us);
        history.close(KNOWN_US, |_| row.clone());
        history
    }

    fn assert_rejected(history: &History, reason: &str) {
        let Err(rejected) = check(history) else { panic!("accepted, and not: {reason}") };
        assert!(rejected.reasons.iter().any(|told| told.contains(reason)), "{reason}:\n{rejected}");
    }

    #[test]
    fn only_calls_without_an_answer_are_closed() {
        let history = closed(Some(50 * MS), None);
        let closed: Vec<_> = history.calls.iter().filter(|call| call.logged.is_some()).collect();
        assert!(closed.len() == 1 && closed[0].answer.is_none(), "{closed:#?}");
        let checked = check(&history).unwrap();
        assert_eq!((checked.calls, checked.answered, checked.failed, checked.logged), (19, 18, 0, 0));
    }

    #[test]
    fn a_row_of_the_log_has_to_fit_to_what_others_were_told() {
        // Settled later, it may have taken effect after the first look; its lease was over by the second.
        let checked = check(&closed(None, Some((granted(1, 150), clock(150))))).unwrap();
        assert_eq!((checked.answered, checked.logged), (18, 1));
        let settled = |answer, at| closed(Some(50 * MS), Some((answer, at)));
        assert_rejected(&settled(granted(1, 45), clock(45)), "shown as free while d held it");
        assert_rejected(&settled(granted(2, 45), clock(45)), "token 2 was given after token 0");
        assert_rejected(&settled(granted(1, 44), clock(45)), "the lease was counted from");
        assert_rejected(&settled(granted(1, 900), clock(900)), "the log has it at");
        assert_rejected(&settled(Answer::Released, clock(45)), "is no answer to");
    }

    /// What the log denies did not happen, whoever saw it.
    #[test]
    fn an_effect_that_is_not_in_the_log_is_none() {
        let lost = |row: Option<(Answer, i64)>| {
            let mut history = tasks();
            let call = history.calls.iter_mut().find(|call| call.id == "c-400").unwrap();
            (call.answer, call.settled_us) = (None, Some(415 * MS));
            history.close(KNOWN_US, |_| row.clone());
            history
        };
        check(&lost(Some((claimed("x", "second", 405, 2), clock(405))))).unwrap();
        assert_rejected(&lost(None), "the report of c's claim second counted while it was pending");
        let again = lost(Some((claimed("x", "second", 405, 1), clock(405))));
        assert_rejected(&again, "claimed as attempt 1 while it was pending after 1");
    }

    /// Without the log a lost claim may explain the claims of several tasks, as each is looked at by itself.
    #[test]
    fn a_lost_claim_is_of_one_task_where_the_log_tells_which() {
        let shown = || Answer::Task {
            status: "claimed".to_owned(),
            attempts: 0,
            by: Some("b".to_owned()),
            expires_at: Some(second_from(325)),
        };
        let submitted = |id: &str| Answer::Submitted { task_id: id.to_owned() };
        let mut history = history(vec![
            call("a", (300, 302), submit("p"), submitted("id-p")),
            call("a", (303, 305), submit("q"), submitted("id-q")),
            Call { answer: None, ..call("b", (310, 330), claim(), Answer::NothingToClaim) },
            call("a", (340, 345), get("id-p"), shown()),
            call("a", (350, 355), get("id-q"), shown()),
        ]);
        check(&history).unwrap();
        history.close(KNOWN_US, |_| Some((claimed("p", "token", 325, 1), clock(325))));
        assert_rejected(&history, "shown as claimed after 0 attempt(s) while it was pending");
    }
}
