//! The checker's teeth: histories that are wrong by one change of a right one, each rejected for what is wrong with it.

use super::check::check;
use super::clock::{ServerClock, Step};
use super::{Answer, Call, History, Op};

/// The machine's clock when the histories begin.
const WALL_US: i64 = 1_900_000_000_000_000;
pub(super) const MS: i64 = 1000;
/// A step of the server's clock in the histories of locks.
const STEP_US: i64 = 61_000_000;

pub(super) fn history(calls: Vec<Call>) -> History {
    let steps = vec![Step { from_us: 200 * MS, until_us: 210 * MS, offset_us: STEP_US }];
    History { name: "known".to_owned(), seed: 0, clock: ServerClock { steps }, calls }
}

/// A call from one millisecond to another.
pub(super) fn call(agent: &str, (from, to): (i64, i64), op: Op, answer: Answer) -> Call {
    Call {
        id: format!("{agent}-{from}"),
        client: agent.to_owned(),
        agent: agent.to_owned(),
        host: 0,
        surface: "http".to_owned(),
        invoked_us: from * MS,
        returned_us: to * MS,
        wall_invoked_us: WALL_US + from * MS,
        wall_returned_us: WALL_US + to * MS,
        op,
        answer: Some(answer),
        settled_us: None,
        logged: None,
    }
}

/// The server's clock at a millisecond.
pub(super) fn clock(at: i64) -> i64 {
    WALL_US + at * MS + if at > 200 { STEP_US } else { 0 }
}

pub(super) fn minute_from(at: i64) -> i64 {
    clock(at) + 60_000_000
}

fn acquire(key: &str) -> Op {
    Op::Acquire { key: key.to_owned(), ttl_minutes: 1 }
}

fn renew(key: &str, token: i64) -> Op {
    Op::Renew { key: key.to_owned(), token, ttl_minutes: 1 }
}

fn release(token: i64) -> Op {
    Op::Release { key: "k".to_owned(), token: Some(token) }
}

fn status(key: &str) -> Op {
    Op::Status { key: key.to_owned() }
}

fn held(by: &str, token: i64, expires_at: i64) -> Answer {
    Answer::Held { by: by.to_owned(), token, expires_at }
}

pub(super) fn locks() -> History {
    let verify = |token| Op::Verify { key: "k".to_owned(), token };
    let lost = Call { answer: None, settled_us: Some(50 * MS), ..call("d", (10, 30), acquire("lost"), Answer::Free) };
    history(vec![
        call("a", (0, 10), acquire("k"), Answer::Granted { token: 1, expires_at: minute_from(5) }),
        call("b", (20, 30), acquire("k"), Answer::Blocked { by: "a".to_owned(), expires_at: minute_from(5) }),
        call("a", (40, 50), renew("k", 1), Answer::Refreshed { token: 1, expires_at: minute_from(45) }),
        call("a", (60, 70), verify(1), Answer::Verified { valid: true }),
        call("c", (80, 90), status("k"), held("a", 1, minute_from(45))),
        call("a", (100, 110), release(1), Answer::Released),
        call("c", (120, 130), status("k"), Answer::Free),
        call("b", (140, 150), acquire("k"), Answer::Granted { token: 2, expires_at: minute_from(145) }),
        call("a", (160, 170), release(1), Answer::NotOwner),
        call("a", (180, 190), verify(1), Answer::Verified { valid: false }),
        call("c", (300, 310), acquire("k"), Answer::Granted { token: 3, expires_at: minute_from(305) }),
        call("b", (320, 330), renew("k", 2), Answer::NotOwner),
        call(
            "admin",
            (340, 350),
            Op::ForceRelease { key: "k".to_owned() },
            Answer::Forced { by: Some("c".to_owned()) },
        ),
        call("a", (360, 370), status("k"), Answer::Free),
        // Another key: held until its lease is over, and then by nobody.
        call("e", (20, 25), acquire("other"), Answer::Granted { token: 1, expires_at: minute_from(22) }),
        call("e", (220, 230), renew("other", 1), Answer::NotOwner),
        // A third one: an acquisition without an answer that took no effect.
        lost,
        call("c", (100, 105), status("lost"), Answer::Free),
        call("c", (380, 385), status("lost"), Answer::Free),
    ])
}

pub(super) fn submit(task: &str) -> Op {
    Op::Submit { task: task.to_owned(), task_type: "t".to_owned(), max_attempts: 2 }
}

pub(super) fn claim() -> Op {
    Op::Claim { task_type: "t".to_owned(), lease_seconds: 1 }
}

fn complete(id: &str, token: &str, success: bool) -> Op {
    Op::Complete { task_id: id.to_owned(), claim_token: token.to_owned(), success }
}

pub(super) fn claimed(task: &str, token: &str, at: i64, attempt: i64) -> Answer {
    Answer::Claimed {
        task_id: format!("id-{task}"),
        task: task.to_owned(),
        claim_token: token.to_owned(),
        expires_at: second_from(at),
        attempt,
    }
}

pub(super) fn second_from(at: i64) -> i64 {
    clock(at) + 1_000_000
}

pub(super) fn get(id: &str) -> Op {
    Op::Get { task_id: id.to_owned() }
}

fn stands(status: &str, attempts: i64) -> Answer {
    Answer::Task { status: status.to_owned(), attempts, by: None, expires_at: None }
}

fn ended(status: &str) -> Answer {
    Answer::Ended { status: status.to_owned() }
}

pub(super) fn tasks() -> History {
    let beat =
        |token: &str| Op::Heartbeat { task_id: "id-x".to_owned(), claim_token: token.to_owned(), lease_seconds: 1 };
    let cancel = |id: &str| Op::Cancel { task_id: id.to_owned() };
    let submitted = |id: &str| Answer::Submitted { task_id: id.to_owned() };
    let x_claimed = Answer::Task {
        status: "claimed".to_owned(),
        attempts: 0,
        by: Some("b".to_owned()),
        expires_at: Some(second_from(325)),
    };
    history(vec![
        call("a", (300, 305), submit("x"), submitted("id-x")),
        call("b", (310, 315), claim(), claimed("x", "first", 312, 1)),
        call("c", (316, 319), claim(), Answer::NothingToClaim),
        call("b", (320, 330), beat("first"), Answer::Beat { expires_at: second_from(325) }),
        call("a", (340, 350), get("id-x"), x_claimed),
        call("b", (360, 370), complete("id-x", "first", false), ended("pending")),
        call("a", (380, 390), get("id-x"), stands("pending", 1)),
        call("c", (400, 410), claim(), claimed("x", "second", 405, 2)),
        call("b", (420, 430), complete("id-x", "first", true), Answer::NotHeld),
        call("c", (440, 450), complete("id-x", "second", true), ended("completed")),
        call("c", (460, 470), complete("id-x", "second", true), Answer::NotHeld),
        call("a", (480, 490), get("id-x"), stands("completed", 2)),
        call("a", (500, 510), cancel("id-x"), Answer::AlreadyFinal),
        // Another task: its claim runs out, and it is withdrawn from the next one.
        call("a", (600, 610), submit("y"), submitted("id-y")),
        call("b", (620, 630), claim(), claimed("y", "third", 625, 1)),
        call("a", (1000, 1005), cancel("id-x"), Answer::AlreadyFinal),
        call("b", (1800, 1810), complete("id-y", "third", true), Answer::NotHeld),
        call("a", (1820, 1830), get("id-y"), stands("pending", 1)),
        call("c", (1840, 1850), claim(), claimed("y", "fourth", 1845, 2)),
        call("a", (1860, 1870), cancel("id-y"), ended("cancelled")),
        call("c", (1880, 1890), complete("id-y", "fourth", true), Answer::NotHeld),
        call("a", (1900, 1910), get("id-y"), stands("cancelled", 2)),
        call("b", (1920, 1930), claim(), Answer::NothingToClaim),
    ])
}

/// A kind of wrong: its name, the call to change, the change, and a part of the reason that has to be found.
type Wrong = (&'static str, &'static str, fn(&mut Call), &'static str);

fn answers(answer: Answer) -> impl FnOnce(&mut Call) {
    |call| call.answer = Some(answer)
}

const LOCKS: [Wrong; 22] = [
    (
        "two holders at once",
        "b-20",
        |call| answers(Answer::Granted { token: 2, expires_at: minute_from(25) })(call),
        "granted to b while a held it under token 1",
    ),
    (
        "a token used again",
        "b-140",
        |call| answers(Answer::Granted { token: 1, expires_at: minute_from(145) })(call),
        "token 1 was given after token 1",
    ),
    (
        "a token that goes back",
        "c-300",
        |call| answers(Answer::Granted { token: 1, expires_at: minute_from(305) })(call),
        "token 1 was given after token 2",
    ),
    (
        "a token left out",
        "b-140",
        |call| answers(Answer::Granted { token: 3, expires_at: minute_from(145) })(call),
        "token 3 was given after token 1",
    ),
    (
        "a token that changes without a grant",
        "a-40",
        |call| answers(Answer::Refreshed { token: 2, expires_at: minute_from(45) })(call),
        "refreshed for a under token 2 while a held it under token 1",
    ),
    (
        "a stale token renewed",
        "b-320",
        |call| answers(Answer::Refreshed { token: 2, expires_at: minute_from(325) })(call),
        "refreshed for b under token 2 while c held it under token 3",
    ),
    (
        "a lease revived after its end",
        "e-220",
        |call| answers(Answer::Refreshed { token: 1, expires_at: minute_from(225) })(call),
        "refreshed for e under token 1 while nobody held it",
    ),
    ("released by another agent", "a-160", |call| answers(Answer::Released)(call), "released by a while b held it"),
    (
        "granted before the lease ended",
        "b-140",
        |call| {
            call.op = Op::Acquire { key: "k".to_owned(), ttl_minutes: 2 };
            call.answer = Some(Answer::Granted { token: 2, expires_at: minute_from(145) + 60_000_000 });
        },
        "granted to c while b held it under token 2",
    ),
    ("an acknowledged grant lost", "c-80", |call| answers(Answer::Free)(call), "shown as free while a held it"),
    (
        "an acknowledged grant lost, as its holder sees it",
        "a-60",
        |call| answers(Answer::Verified { valid: false })(call),
        "token 1 was told to be valid: false, while a held it",
    ),
    (
        "a holder who never asked",
        "c-120",
        |call| answers(held("c", 2, minute_from(125)))(call),
        "c was shown as the holder",
    ),
    ("a look at the past", "c-120", |call| answers(held("a", 1, minute_from(45)))(call), "a was shown as the holder"),
    (
        "a look at a lease as it was before it was made longer",
        "c-80",
        |call| answers(held("a", 1, minute_from(5)))(call),
        "a was shown as the holder",
    ),
    (
        "blocked by who does not hold it",
        "b-20",
        |call| answers(Answer::Blocked { by: "c".to_owned(), expires_at: minute_from(5) })(call),
        "c was shown as the holder",
    ),
    (
        "an old token told to be valid",
        "a-180",
        |call| answers(Answer::Verified { valid: true })(call),
        "token 1 was told to be valid: true, while b held it",
    ),
    (
        "refused although it holds it",
        "a-100",
        |call| answers(Answer::NotOwner)(call),
        "does not hold it while a held it",
    ),
    (
        "a lease longer than was asked for",
        "a-40",
        |call| answers(Answer::Refreshed { token: 1, expires_at: minute_from(45) + 5_000_000 })(call),
        "the lease was counted from",
    ),
    (
        "a lease by another clock",
        "c-300",
        |call| answers(Answer::Granted { token: 3, expires_at: minute_from(305) - STEP_US })(call),
        "the lease was counted from",
    ),
    (
        "taken by force from another",
        "admin-340",
        |call| answers(Answer::Forced { by: Some("b".to_owned()) })(call),
        "taken by force from b while c held it",
    ),
    (
        "an effect after it was settled",
        "c-380",
        |call| answers(held("d", 1, minute_from(380)))(call),
        "d was shown as the holder",
    ),
    ("one name for two requests", "c-380", |call| call.id = "c-80".to_owned(), "the request's name was given before"),
];

const TASKS: [Wrong; 19] = [
    ("claimed twice", "c-316", |call| answers(claimed("x", "more", 317, 1))(call), "claimed by c while b held it"),
    (
        "completed under an old claim",
        "b-420",
        |call| answers(ended("completed"))(call),
        "the report of b's claim first counted while c held it",
    ),
    (
        "completed twice",
        "c-460",
        |call| answers(ended("completed"))(call),
        "the report of c's claim second counted while it was completed",
    ),
    (
        "a final status rewritten",
        "a-480",
        |call| answers(stands("pending", 2))(call),
        "shown as pending after 2 attempt(s) while it was completed",
    ),
    ("withdrawn after its end", "a-500", |call| answers(ended("cancelled"))(call), "cancelled while it was completed"),
    (
        "an attempt not counted",
        "c-400",
        |call| answers(claimed("x", "second", 405, 1))(call),
        "claimed as attempt 1 while it was pending after 1",
    ),
    (
        "an attempt that ran out not counted",
        "a-1820",
        |call| answers(stands("pending", 0))(call),
        "shown as pending after 0 attempt(s) while it was pending after 1",
    ),
    (
        "a claim's token used again",
        "c-400",
        |call| answers(claimed("x", "first", 405, 2))(call),
        "the claim's token first was given before",
    ),
    (
        "claimed after it was withdrawn",
        "b-1920",
        |call| answers(claimed("y", "fifth", 1925, 3))(call),
        "claimed by b while it was cancelled",
    ),
    (
        "a claim revived after its lease",
        "b-1800",
        |call| answers(ended("completed"))(call),
        "the report of b's claim third counted while it was pending",
    ),
    (
        "requeued before its lease ended",
        "a-340",
        |call| answers(stands("pending", 1))(call),
        "shown as pending after 1 attempt(s) while b held it",
    ),
    (
        "claimed before the lease ended",
        "a-1000",
        |call| {
            call.op = claim();
            call.answer = Some(claimed("y", "more", 1002, 2));
        },
        "claimed by a while b held it",
    ),
    ("a report lost", "a-480", |call| answers(stands("pending", 1))(call), "while it was completed after 2"),
    (
        "refused although it holds the claim",
        "c-440",
        |call| answers(Answer::NotHeld)(call),
        "c was told that it does not hold claim second",
    ),
    (
        "nothing to claim although a task waits",
        "c-400",
        |call| answers(Answer::NothingToClaim)(call),
        "c was told that there is nothing to claim while it was pending after 1",
    ),
    (
        "nothing to claim although a lease ended",
        "b-1800",
        |call| (call.op, call.answer) = (claim(), Some(Answer::NothingToClaim)),
        "b was told that there is nothing to claim while it was pending after 1",
    ),
    (
        "a task that is gone",
        "a-480",
        |call| answers(Answer::Missing)(call),
        "said to be missing while it was completed",
    ),
    (
        "a task that nobody submitted",
        "c-400",
        |call| answers(claimed("z", "second", 405, 1))(call),
        "a task was claimed that nobody submitted",
    ),
    (
        "one name for two tasks",
        "a-600",
        |call| answers(Answer::Submitted { task_id: "id-x".to_owned() })(call),
        "the task's name id-x was given before",
    ),
];

#[test]
fn right_histories_are_accepted() {
    let checked = check(&locks()).unwrap_or_else(|rejected| panic!("{rejected}"));
    assert_eq!((checked.keys, checked.tasks, checked.calls, checked.answered), (3, 0, 19, 18));
    let checked = check(&tasks()).unwrap_or_else(|rejected| panic!("{rejected}"));
    assert_eq!((checked.keys, checked.tasks), (0, 2));
}

fn assert_rejected(right: &History, (name, id, change, reason): Wrong) {
    let mut wrong = right.clone();
    change(wrong.calls.iter_mut().find(|call| call.id == id).unwrap_or_else(|| panic!("there is no call {id}")));
    assert_ne!(&wrong, right, "{name}: nothing was changed");
    let Err(rejected) = check(&wrong) else { panic!("{name}: accepted") };
    assert!(rejected.reasons.iter().any(|told| told.contains(reason)), "{name}:\n{rejected}");
    assert!(rejected.excerpt.contains(&rejected.call), "{name}: the call is not in the excerpt:\n{rejected}");
}

#[test]
fn each_kind_of_wrong_history_is_rejected_for_what_is_wrong() {
    LOCKS.into_iter().for_each(|wrong| assert_rejected(&locks(), wrong));
    TASKS.into_iter().for_each(|wrong| assert_rejected(&tasks(), wrong));
}

/// What is concurrent may be in either order, and what has no answer may have happened; neither is an excuse for more.
#[test]
fn what_is_not_known_is_neither_held_against_the_service_nor_for_it() {
    let mut touching = locks();
    // The release is still open when the status is asked: it may be free already, or not yet.
    touching.calls[5].returned_us = 125 * MS;
    touching.calls[5].wall_returned_us = WALL_US + 125 * MS;
    check(&touching).unwrap();
    touching.calls[6].answer = Some(held("a", 1, minute_from(45)));
    check(&touching).unwrap();
    let lost = |settled_us, second: Answer| {
        let mut history = locks();
        let at = history.calls.iter().position(|call| call.id == "d-10").unwrap();
        history.calls[at].settled_us = settled_us;
        history.calls.iter_mut().find(|call| call.id == "c-380").unwrap().answer = Some(second);
        check(&history)
    };
    // It took effect after all, before it was settled and after the first look.
    lost(Some(350 * MS), held("d", 1, minute_from(340))).unwrap();
    lost(None, held("d", 1, minute_from(340))).unwrap();
    // But no other agent's did, and under no other token.
    lost(None, held("d", 2, minute_from(340))).unwrap_err();
    lost(None, held("a", 1, minute_from(340))).unwrap_err();
    // And a lease that it cannot have been given is none.
    lost(None, held("d", 1, minute_from(900))).unwrap_err();
}

#[test]
fn there_may_be_nothing_to_claim_before_a_task_is_there_and_once_it_is_taken() {
    let with = |during: (i64, i64)| {
        let mut history = tasks();
        history.calls.push(call("d", during, claim(), Answer::NothingToClaim));
        check(&history)
    };
    // The second task is submitted between 600 and 610, and claimed between 620 and 630.
    for during in [(590, 606), (606, 615), (615, 625)] {
        with(during).unwrap();
    }
    with((612, 618)).unwrap_err();
    // Its lease ends at 1625, if all clocks agree.
    with((1630, 1640)).unwrap();
    with((1660, 1670)).unwrap_err();
}

#[test]
fn a_history_is_kept_and_read_again() {
    let mut kept = Vec::new();
    let mut history = locks();
    history.close(400 * MS, |_| Some((Answer::Granted { token: 1, expires_at: minute_from(45) }, clock(45))));
    history.write(&mut kept).unwrap();
    assert_eq!(kept.iter().filter(|byte| **byte == b'\n').count(), history.calls.len() + 1);
    assert_eq!(History::read(kept.as_slice()).unwrap(), history);
    History::read(&b"{}\n"[..]).unwrap_err();
}
