//! Can a correct service have answered so? Each lock key and each task by itself, and what holds of all of them together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use super::locks::{LockModel, instant};
use super::logged::Logged;
use super::search::{Item, Model, Stuck, search};
use super::tasks::TaskModel;
use super::{Answer, Call, History, Op};

/// So many calls before the one without an explanation are shown.
const SHOWN_MAX: usize = 16;

/// What was looked at in a history that was accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// All calls.
    pub calls: usize,
    /// Those whose answer is known.
    pub answered: usize,
    /// Those that certainly did nothing: nobody was there to be asked, or there was no room.
    pub failed: usize,
    /// Those without an answer of which the log tells that they changed something.
    pub logged: usize,
    /// Claims that were answered with a task.
    pub claimed: usize,
    /// Lock keys.
    pub keys: usize,
    /// Tasks.
    pub tasks: usize,
    /// The most explanations that there were for one key or task at one moment.
    pub possibilities: usize,
}

/// Why a history cannot be that of a correct service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The lock key or the task.
    pub about: String,
    /// The call that has no explanation.
    pub call: String,
    /// Why not, in each of the states that were possible.
    pub reasons: Vec<String>,
    /// The calls before it, and what was possible.
    pub excerpt: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: call {} has no explanation:", self.about, self.call)?;
        for reason in &self.reasons {
            writeln!(f, "  - {reason}")?;
        }
        write!(f, "{}", self.excerpt)
    }
}

/// Checks a history.
///
/// # Errors
/// The first key or task, and of it the first call, that has no explanation.
pub fn check(history: &History) -> Result<Checked, Box<Rejected>> {
    let mut checked = counted(&history.calls);
    let end = history.calls.iter().map(|call| call.returned_us).max().unwrap_or(0);
    let calls: Vec<Call> = history.calls.iter().map(Call::resolved).collect();
    check_names(&calls)?;
    for (key, own) in by_key(&calls) {
        let found = check_one(history, end, &LockModel, &format!("lock {key}"), &own)?;
        checked.possibilities = checked.possibilities.max(found);
        checked.keys += 1;
    }
    for (task, (max_attempts, own)) in by_task(&calls)? {
        let found = check_one(history, end, &TaskModel { max_attempts }, &format!("task {task}"), &own)?;
        checked.possibilities = checked.possibilities.max(found);
        checked.tasks += 1;
    }
    Ok(checked)
}

/// What clients were told, without what the log tells.
fn counted(calls: &[Call]) -> Checked {
    let count = |is: fn(&Call) -> bool| calls.iter().filter(|call| is(call)).count();
    let failed = count(|call| call.answer == Some(Answer::Failed));
    Checked {
        calls: calls.len(),
        answered: count(|call| call.answer.is_some()).saturating_sub(failed),
        failed,
        logged: count(Call::is_logged),
        claimed: count(|call| matches!(call.answer, Some(Answer::Claimed { .. }))),
        ..Checked::default()
    }
}

/// Names that must be given once: of requests, of tasks, of claims.
fn check_names(calls: &[Call]) -> Result<(), Box<Rejected>> {
    let mut ids = BTreeSet::new();
    let (mut tasks, mut tokens) = (BTreeMap::new(), BTreeMap::new());
    for call in calls {
        let again = |what: &str, first: &str| {
            rejected("the whole history", call, format!("{what} was given before, to {first}"))
        };
        if !ids.insert(&call.id) {
            return Err(again("the request's name", "another request"));
        }
        match &call.answer {
            Some(Answer::Submitted { task_id }) => {
                if let Some(first) = tasks.insert(task_id, &call.id) {
                    return Err(again(&format!("the task's name {task_id}"), first));
                }
            }
            Some(Answer::Claimed { claim_token, .. }) => {
                if let Some(first) = tokens.insert(claim_token, &call.id) {
                    return Err(again(&format!("the claim's token {claim_token}"), first));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn rejected(about: &str, call: &Call, reason: String) -> Box<Rejected> {
    let excerpt = line(call);
    Box::new(Rejected { about: about.to_owned(), call: call.id.clone(), reasons: vec![reason], excerpt })
}

fn by_key(calls: &[Call]) -> BTreeMap<&str, Vec<&Call>> {
    let mut all: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        if let Some(key) = call.op.key() {
            all.entry(key).or_default().push(call);
        }
    }
    all
}

type Tasks<'h> = BTreeMap<&'h str, (i64, Vec<&'h Call>)>;

/// The calls of each task, by the name that its submitter gave it. A claim that found nothing is about all tasks of its type.
///
/// So is a claim without an answer of which the log tells nothing. As each task is looked at by itself, one such claim may explain the
/// claims of several tasks: histories are weaker for it, and those of a real run are closed by the log before.
fn by_task(calls: &[Call]) -> Result<Tasks<'_>, Box<Rejected>> {
    let mut all = Tasks::new();
    let (mut types, mut names) = (BTreeMap::new(), BTreeMap::new());
    let mut of_no_task: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        if let Op::Submit { task, task_type, max_attempts } = &call.op {
            all.insert(task, (*max_attempts, vec![call]));
            types.insert(task.as_str(), task_type.as_str());
            if let Some(Answer::Submitted { task_id }) = &call.answer {
                names.insert(task_id.as_str(), task.as_str());
            }
        }
    }
    // Who submitted a task without hearing of it is told its name by whoever claims it.
    for call in calls {
        if let Some(Answer::Claimed { task_id, task, .. }) = &call.answer
            && *names.entry(task_id).or_insert(task) != task
        {
            return Err(rejected(task, call, format!("the name {task_id} is of two tasks")));
        }
    }
    for call in calls {
        if let Some(Answer::Claimed { task, .. }) = &call.answer {
            let Some((_, own)) = all.get_mut(task.as_str()) else {
                return Err(rejected(task, call, "a task was claimed that nobody submitted".to_owned()));
            };
            own.push(call);
        } else if let Some(task_id) = call.op.task_id() {
            let own = names.get(task_id).and_then(|task| all.get_mut(task));
            let Some((_, own)) = own else {
                return Err(rejected(task_id, call, "a task was asked about that nobody was told of".to_owned()));
            };
            own.push(call);
        } else if let (Op::Claim { task_type, .. }, None | Some(Answer::NothingToClaim)) = (&call.op, &call.answer) {
            of_no_task.entry(task_type).or_default().push(call);
        }
    }
    for (task, (_, own)) in &mut all {
        let claims = types.get(task).and_then(|task_type| of_no_task.get(task_type));
        let claims = claims_about(own, claims.map(Vec::as_slice).unwrap_or_default());
        own.extend(claims);
    }
    Ok(all)
}

/// Those of the claims without a task that can mean something to one: begun before somebody knew that it was over, and ended after its
/// submission was begun.
fn claims_about<'h>(own: &[&'h Call], claims: &[&'h Call]) -> Vec<&'h Call> {
    let begun = own.iter().map(|call| call.invoked_us).min().unwrap_or(0);
    let told = own.iter().filter(|call| call.answer.as_ref().is_some_and(tells_the_end));
    let over = told.map(|call| call.returned_us).min().unwrap_or(i64::MAX);
    let may_matter = |call: &&&Call| call.invoked_us <= over && (call.answer.is_none() || call.returned_us >= begun);
    claims.iter().filter(may_matter).copied().collect()
}

/// Whether a task has a final status by this answer.
fn tells_the_end(answer: &Answer) -> bool {
    match answer {
        Answer::Ended { status } | Answer::Task { status, .. } => !matches!(status.as_str(), "pending" | "claimed"),
        Answer::AlreadyFinal => true,
        _ => false,
    }
}

fn check_one<M: Model>(
    history: &History,
    end: i64,
    model: &M,
    about: &str,
    calls: &[&Call],
) -> Result<usize, Box<Rejected>> {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| (call.invoked_us, call.returned_us));
    // Past the last answer nothing can be told any more, so nothing is asked.
    let items = calls.iter().map(|call| item(history, end, about, call)).collect::<Result<Vec<_>, _>>()?;
    search(model, &items).map_err(|stuck| Box::new(explained(about, &calls, stuck)))
}

fn item<'h>(history: &History, end: i64, about: &str, call: &'h Call) -> Result<Item<'h>, Box<Rejected>> {
    let clock = &history.clock;
    let until = if call.answer.is_some() {
        call.returned_us
    } else {
        call.settled_us.unwrap_or(i64::MAX).min(end.max(call.returned_us))
    };
    let wall = call.wall_returned_us.saturating_add(until.saturating_sub(call.returned_us));
    let (least, most) = (clock.least(call.invoked_us, until, call.wall_invoked_us), clock.most(until, wall));
    let Some(Logged::Change { clock_us, .. }) = call.logged else { return Ok(Item { call, least, most }) };
    // One instant, which has to be possible.
    if clock_us < least || clock_us > most {
        let (at, least, most) = (instant(clock_us), instant(least), instant(most));
        let reason = format!("the log has it at {at}, and the server's clock showed {least} to {most}");
        return Err(rejected(about, call, reason));
    }
    Ok(Item { call, least: clock_us, most: clock_us })
}

fn explained(about: &str, calls: &[&Call], stuck: Stuck) -> Rejected {
    let Some(call) = calls.get(stuck.at) else {
        return Rejected {
            about: about.to_owned(),
            call: String::new(),
            reasons: stuck.reasons,
            excerpt: String::new(),
        };
    };
    let before: Vec<_> =
        calls.iter().filter(|other| other.invoked_us <= call.returned_us && other.id != call.id).collect();
    let mut excerpt = String::from("  calls until then, by their beginning:\n");
    for other in before.iter().skip(before.len().saturating_sub(SHOWN_MAX)) {
        let _ = writeln!(excerpt, "    {}", line(other));
    }
    let _ = writeln!(excerpt, "  > {}", line(call));
    excerpt.push_str("  what was possible before its return:\n");
    for state in stuck.before.iter().take(SHOWN_MAX) {
        let _ = writeln!(excerpt, "    {state}");
    }
    Rejected { about: about.to_owned(), call: call.id.clone(), reasons: stuck.reasons, excerpt }
}

/// A call on one line.
fn line(call: &Call) -> String {
    let until = match (&call.answer, call.settled_us) {
        (Some(_), _) => ms(call.returned_us),
        (None, Some(settled)) => format!("?{}", ms(settled)),
        (None, None) => "?".to_owned(),
    };
    let mut answer = call.answer.as_ref().map_or_else(|| "no answer".to_owned(), |answer| format!("{answer:?}"));
    if call.logged.is_some() {
        answer.push_str(", as the log has it");
    }
    let (from, who) =
        (ms(call.invoked_us), if call.client == call.agent { String::new() } else { format!(" as {}", call.agent) });
    format!(
        "{from:>11} .. {until:>11}  {}{who} at host {} ({}, {}): {:?} -> {answer}",
        call.client, call.host, call.surface, call.id, call.op
    )
}

fn ms(us: i64) -> String {
    format!("{}.{:03} ms", us.div_euclid(1000), us.rem_euclid(1000))
}
