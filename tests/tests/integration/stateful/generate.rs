//! Steps to come, as likely as they are telling: mostly about what there is, by those who may, and now and then not.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

use super::model::Model;
use super::op::{ADMIN, AGENTS, Act, BOB, KEYS, Op, PROFILES, Submission};

/// Anybody, those who work more often than those who look on.
const ANYBODY: [usize; 12] = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 0];
/// Anybody, but mostly the operator.
const OPERATORS: [usize; 10] = [0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
/// Who may clean up, and who may not.
const KEEPERS: [usize; 6] = [0, 1, 1, 2, 3, 4];

type Acts = BoxedStrategy<Act>;

fn by(who: &'static [usize], act: impl Strategy<Value = Act> + 'static) -> BoxedStrategy<Op> {
    (select(who), act).prop_map(|(who, act)| Op { who, act, once: None }).boxed()
}

/// The same, sometimes under an `Idempotency-Key`, of which there are so few that they are used again.
fn once(act: impl Strategy<Value = Act> + 'static) -> BoxedStrategy<Op> {
    let key = prop_oneof![3 => Just(None), 1 => (0_u8..2).prop_map(Some)];
    (select(&ANYBODY[..]), act, key).prop_map(|(who, act, once)| Op { who, act, once }).boxed()
}

fn key() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0_usize), 2 => Just(1), 1 => Just(KEYS.len() - 1)]
}

/// A key with a token: the newest, one of before, one to come.
fn token(model: &Model) -> BoxedStrategy<(usize, i64)> {
    let last: Vec<i64> = (0..KEYS.len()).map(|key| *model.tokens.get(&key).unwrap_or(&1)).collect();
    (key(), select(&[0, 0, 0, -1, 1][..]))
        .prop_map(move |(key, off): (usize, i64)| (key, (last[key] + off).max(1)))
        .boxed()
}

fn ttl() -> impl Strategy<Value = i64> {
    select(&[1, 1, 5, 30, 60, 120, 121, 480][..])
}

fn lease() -> impl Strategy<Value = i64> {
    select(&[1, 30, 60, 900, 3600][..])
}

fn session() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![1 => Just(None), 1 => (0_u8..4).prop_map(Some)]
}

fn locks(model: &Model) -> Vec<(u32, BoxedStrategy<Op>)> {
    let acquire = (key(), ttl(), session()).prop_map(|(key, ttl, session)| Act::Acquire { key, ttl, session });
    let renew = (token(model), ttl()).prop_map(|((key, token), ttl)| Act::Renew { key, token, ttl });
    let release = (token(model), any::<bool>())
        .prop_map(|((key, token), named)| Act::Release { key, token: named.then_some(token) });
    let verify = token(model).prop_map(|(key, token)| Act::Verify { key, token });
    let held = prop_oneof![Just(None), (0..AGENTS.len()).prop_map(Some)].prop_map(|of| Act::Locks { of });
    vec![
        (12, once(acquire)),
        (5, by(&ANYBODY, renew)),
        (5, by(&ANYBODY, release)),
        (3, by(&ANYBODY, verify)),
        (2, by(&ANYBODY, key().prop_map(|key| Act::Status { key }))),
        (2, by(&ANYBODY, held)),
        (2, by(&KEEPERS, key().prop_map(|key| Act::Force { key }))),
    ]
}

fn submission(model: &Model) -> Acts {
    let count = model.tasks.len();
    let depends_on = if count == 0 {
        Just(Vec::new()).boxed()
    } else {
        // What is still open is worth waiting for.
        let open = (0..count).filter(|n| ["pending", "claimed"].contains(&model.tasks[*n].status));
        let mut choice: Vec<usize> = open.collect();
        choice.extend(0..count);
        prop_oneof![
            2 => Just(Vec::new()),
            1 => proptest::collection::btree_set(select(choice), 1..3).prop_map(|set| set.into_iter().collect()),
        ]
        .boxed()
    };
    let now = model.now;
    let deadline = prop_oneof![4 => Just(None), 1 => select(&[60_i64, 600, 4000][..]).prop_map(move |s| Some(now + s))];
    let least_trust = prop_oneof![4 => Just(None), 1 => (2_i64..5).prop_map(Some)];
    let text = prop_oneof![5 => Just(0_usize), 1 => Just(1)];
    let kind = prop_oneof![2 => Just(0_usize), 1 => Just(1)];
    (kind, text, 4_i64..7, 1_i64..4, least_trust, deadline, depends_on)
        .prop_map(|(kind, text, priority, attempts, least_trust, deadline, depends_on)| {
            Act::Submit(Submission { kind, text, priority, attempts, least_trust, deadline, depends_on })
        })
        .boxed()
}

/// A task that there is: one that is claimed more often; with whoever holds or may hold it, and its claim.
fn held(model: &Model) -> Option<BoxedStrategy<(usize, usize, Option<usize>)>> {
    let count = model.tasks.len();
    let claimed = (0..count).filter(|n| model.tasks[*n].status == "claimed");
    let mut choice: Vec<usize> = claimed.flat_map(|n| [n; 8]).collect();
    // And one that somebody tried in vain.
    let tried = (0..count).filter(|n| model.tasks[*n].is_tried());
    choice.extend(tried.flat_map(|n| [n; 4]));
    choice.extend(0..count);
    if choice.is_empty() {
        return None;
    }
    let known: Vec<(Option<usize>, Option<usize>)> =
        model.tasks.iter().map(|task| (task.claimed_by, task.claim)).collect();
    let claims = model.claims.len();
    let chosen = (select(choice), select(&ANYBODY[..]), 0_u8..8, any::<proptest::sample::Index>());
    let strategy = chosen.prop_map(move |(n, other, luck, index)| {
        let (holder, claim) = known[n];
        let who = if luck < 6 { holder.unwrap_or(other) } else { other };
        let stray = (claims > 0).then(|| index.index(claims));
        (n, who, if luck == 5 { stray } else { claim.or(stray) })
    });
    Some(strategy.boxed())
}

fn tasks(model: &Model) -> Vec<(u32, BoxedStrategy<Op>)> {
    let kind = prop_oneof![2 => Just(None), 1 => (0_usize..2).prop_map(Some)];
    let claim = (kind, lease()).prop_map(|(kind, lease)| Act::Claim { kind, lease });
    let statuses =
        select(&[None, Some("pending"), Some("claimed"), Some("completed"), Some("failed"), Some("cancelled")][..]);
    let mut all = vec![
        (12, once(submission(model))),
        (11, by(&ANYBODY, claim)),
        (1, by(&ANYBODY, statuses.prop_map(|status| Act::Tasks { status }))),
    ];
    if let Some(held) = held(model) {
        let complete = (held.clone(), any::<bool>(), 0_u8..4).prop_map(|((task, who, claim), success, named)| Op {
            who,
            act: Act::Complete { task, claim: claim.filter(|_| named > 0), success },
            once: None,
        });
        all.push((9, complete.boxed()));
        let beats = (held.clone(), lease()).prop_filter_map("no claim yet", |((task, who, claim), lease)| {
            Some(Op { who, act: Act::Beat { task, claim: claim?, lease }, once: None })
        });
        if !model.claims.is_empty() {
            all.push((4, beats.boxed()));
        }
        let cancel = (held.clone(), select(&ANYBODY[..]));
        let cancel = cancel.prop_map(|((task, ..), who)| Op { who, act: Act::Cancel { task }, once: None });
        all.push((3, cancel.boxed()));
        let look = (held, select(&ANYBODY[..]));
        let look = look.prop_map(|((task, ..), who)| Op { who, act: Act::Task { task }, once: None });
        all.push((2, look.boxed()));
    }
    all
}

fn people(model: &Model) -> Vec<(u32, BoxedStrategy<Op>)> {
    let statuses = select(&[None, Some("active"), Some("idle"), Some("disconnected")][..]);
    let cleanup =
        (select(&[1_i64, 15, 60][..]), 0_u8..4).prop_map(|(minutes, n)| Act::Cleanup { minutes, dry_run: n == 0 });
    // It takes a session, a claim, and a minute without a word of whoever has both: seldom enough to be used when it is so.
    let requeue = Just(Act::Cleanup { minutes: 1, dry_run: false });
    let left = if model.is_claim_left() { 120 } else { 1 };
    let remember = (0_u8..3, 0_u8..3).prop_map(|(summary, tag)| Act::Remember { summary, tag });
    let recall = (any::<bool>(), prop_oneof![Just(None), (0_u8..3).prop_map(Some)])
        .prop_map(|(all, tag)| Act::Recall { all, tag });
    let handoffs = prop_oneof![Just(None), (0..AGENTS.len()).prop_map(Some)].prop_map(|of| Act::Handoffs { of });
    vec![
        (6, by(&ANYBODY, (0_u8..4).prop_map(|session| Act::Register { session }))),
        (4, by(&ANYBODY, session().prop_map(|session| Act::Heartbeat { session }))),
        (2, by(&ANYBODY, statuses.prop_map(|status| Act::Sessions { status }))),
        (if model.is_someone_gone() { 16 } else { 4 }, by(&KEEPERS, cleanup)),
        (left, by(&[ADMIN], requeue)),
        (5, once(remember)),
        (2, by(&ANYBODY, recall)),
        (2, once(Just(Act::HandOff))),
        (2, by(&ANYBODY, handoffs)),
    ]
}

fn operators(model: &Model) -> Vec<(u32, BoxedStrategy<Op>)> {
    let epoch = model.epoch;
    let activate = (0_usize..2, 0_u8..4)
        .prop_map(move |(component, n)| Act::Activate { component, expected: epoch - i64::from(n == 0) });
    // Whoever is suspended is mostly let go again soon: a run of refusals says little.
    let suspended: Vec<usize> = (1..AGENTS.len()).filter(|n| model.agents[*n].suspended).collect();
    let suspend = if suspended.is_empty() {
        (1..AGENTS.len()).prop_map(|whom| Act::Suspend { whom, suspended: true }).boxed()
    } else {
        select(suspended).prop_map(|whom| Act::Suspend { whom, suspended: false }).boxed()
    };
    let back = u32::from(model.agents[BOB].profile == "suspended") * 3;
    let profile = prop_oneof![
        1 + back => Just(0),
        2 => Just(1),
        1 => Just(PROFILES.len() - 1),
    ];
    vec![
        (2, by(&OPERATORS, activate)),
        (2, by(&ANYBODY, Just(Act::Components))),
        (3, by(&OPERATORS, suspend)),
        (2, by(&OPERATORS, profile.prop_map(|profile| Act::Profile { profile }))),
    ]
}

/// The steps that may come next.
pub(crate) fn steps(model: &Model) -> BoxedStrategy<Op> {
    let seconds = select(&[1_i64, 29, 60, 300, 16 * 60, 61 * 60][..]);
    let advance = prop_oneof![20 => seconds, 1 => Just(24 * 3600_i64)];
    let nobody = |act: BoxedStrategy<Act>| act.prop_map(|act| Op { who: ADMIN, act, once: None }).boxed();
    let mut all = locks(model);
    all.extend(tasks(model));
    all.extend(people(model));
    all.extend(operators(model));
    all.push((7, nobody(advance.prop_map(|seconds| Act::Advance { seconds }).boxed())));
    all.push((1, nobody(Just(Act::Restart).boxed())));
    Union::new_weighted(all).boxed()
}
