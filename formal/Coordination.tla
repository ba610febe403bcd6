---------------------------- MODULE Coordination ----------------------------
(* What Portreeve promises about locks, tasks, decisions and the policy in   *)
(* force. The whole durable state is one record, `db`, because one           *)
(* transaction changes it; what a request does to it is a function, as in    *)
(* the code (`host/src/domain`, and the functions of the database). So there *)
(* are few actions: time passes, a decision is made, a decision is carried   *)
(* out under the standing check, a host dies. README.md maps each operator   *)
(* to Rust and SQL by name.                                                  *)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
    Agents,             \* who asks
    Keys,               \* what can be locked
    Tasks,              \* names that tasks may get
    Components,         \* policies
    FirstEpoch,         \* how often a policy was put in force before
    FirstComponent,     \* the one that is
    FirstFacts,         \* [Agents -> facts] at the beginning
    Trust(_, _),        \* component, profile: the trust that it resolves
    \* EQUIV: engines and builds are one function here. That they are is shown by comparing them, not by a model.
    Allows(_, _, _),    \* component, trust, request: whether it is allowed
    LockCap(_, _)       \* component, trust: the most live locks of one agent

VARIABLES
    now,        \* the server's clock
    db,         \* everything durable but the log
    flight,     \* [Agents -> a decision that is not carried out yet, or Nothing]
    log         \* the audit log

vars == <<now, db, flight, log>>

Nothing == [verdict |-> "none"]
Final == {"completed", "failed", "cancelled"}

-----------------------------------------------------------------------------
(* Durable state. A key has a set of grants and a task a set of claims, so   *)
(* that two holders at once can be said, and be found.                       *)

Absent == [status |-> "absent", attempts |-> 0, max |-> 0, deps |-> {}, deadline |-> 0, by |-> "", claims |-> {}]

FirstState == [
    grants |-> [k \in Keys |-> {}],
    fences |-> [k \in Keys |-> 0],
    tasks  |-> [t \in Tasks |-> Absent],
    tokens |-> 0,
    facts  |-> FirstFacts,
    epoch  |-> FirstEpoch,
    active |-> FirstComponent]

IsLive(holding, at) == at < holding.until
Live(holdings, at) == {h \in holdings : IsLive(h, at)}
LocksOf(state, a, at) == {k \in Keys : \E g \in Live(state.grants[k], at) : g.agent = a}
IsOverdue(task, at) == task.deadline # 0 /\ task.deadline <= at

-----------------------------------------------------------------------------
(* What a request does to the state, if it is allowed. Each answers with an  *)
(* outcome, the new state, and the keys of what it changed.                  *)

None == [keys |-> {}, tasks |-> {}, agents |-> {}, epochs |-> {}]
Refused(state) == [outcome |-> "refused", db |-> state, changes |-> None]
OverLimit(state) == [outcome |-> "denied", db |-> state, changes |-> None]
Done(state, changes) == [outcome |-> "ok", db |-> state, changes |-> changes]

\* The next token of a key: above all that were ever given for it.
NextFence(state, k) == state.fences[k] + 1

\* A lock is granted when nobody holds it, and lengthened for who does, under the same token.
Acquire(state, at, a, r, cap) ==
    LET held == Live(state.grants[r.key], at)
        mine == {g \in held : g.agent = a}
        token == NextFence(state, r.key)
        grant == [agent |-> a, token |-> token, until |-> at + r.lease]
        changes == [None EXCEPT !.keys = {r.key}]
    IN  IF held = {}
        THEN IF Cardinality(LocksOf(state, a, at)) >= cap
             THEN OverLimit(state)
             ELSE Done([state EXCEPT !.grants[r.key] = held \union {grant}, !.fences[r.key] = token], changes)
        ELSE IF mine = {}
             THEN Refused(state)
             ELSE Done([state EXCEPT !.grants[r.key] = {[g EXCEPT !.until = at + r.lease] : g \in mine}], changes)

HeldBy(state, at, a, r) ==
    {g \in Live(state.grants[r.key], at) : g.agent = a /\ (r.token = 0 \/ g.token = r.token)}

Renew(state, at, a, r) ==
    LET mine == HeldBy(state, at, a, r)
    IN  IF mine = {}
        THEN Refused(state)
        ELSE Done([state EXCEPT !.grants[r.key] = {[g EXCEPT !.until = at + r.lease] : g \in mine}],
                  [None EXCEPT !.keys = {r.key}])

Release(state, at, a, r) ==
    LET mine == HeldBy(state, at, a, r)
    IN  IF mine = {}
        THEN Refused(state)
        ELSE Done([state EXCEPT !.grants[r.key] = @ \ mine], [None EXCEPT !.keys = {r.key}])

\* An operator takes a lock from whoever holds it.
ForceRelease(state, at, r) ==
    LET held == Live(state.grants[r.key], at)
    IN  IF held = {}
        THEN Refused(state)
        ELSE Done([state EXCEPT !.grants[r.key] = @ \ held], [None EXCEPT !.keys = {r.key}])

Submit(state, a, r) ==
    IF state.tasks[r.task].status # "absent" \/ \E t \in r.deps : state.tasks[t].status \in {"absent", "failed", "cancelled"}
    THEN Refused(state)
    ELSE Done([state EXCEPT !.tasks[r.task] =
                  [Absent EXCEPT !.status = "pending", !.max = r.max, !.deps = r.deps, !.deadline = r.deadline, !.by = a]],
              [None EXCEPT !.tasks = {r.task}])

\* All that waits for one of these, directly or through others.
RECURSIVE Waiting(_, _)
Waiting(tasks, ended) ==
    LET more == {t \in Tasks : tasks[t].status = "pending" /\ t \notin ended /\ tasks[t].deps \cap ended # {}}
    IN  IF more = {} THEN ended ELSE Waiting(tasks, ended \union more)

\* A claim ends: another attempt, or none is left.
Spend(task) ==
    LET spent == task.attempts + 1
    IN  [task EXCEPT !.attempts = spent, !.claims = {}, !.status = IF spent >= task.max THEN "failed" ELSE "pending"]

\* What fails takes with it whatever waits for it.
WithDependants(state, tasks, changed) ==
    LET failed == {t \in changed : tasks[t].status \in {"failed", "cancelled"}}
        taken == IF failed = {} THEN {} ELSE Waiting(tasks, failed) \ failed
    IN  IF taken = {}
        THEN Done([state EXCEPT !.tasks = tasks], [None EXCEPT !.tasks = changed])
        ELSE Done([state EXCEPT !.tasks = [t \in Tasks |-> IF t \in taken THEN [tasks[t] EXCEPT !.status = "failed"] ELSE tasks[t]]],
                  [None EXCEPT !.tasks = changed \union taken])

IsReady(state, at, t) ==
    /\ state.tasks[t].status = "pending"
    /\ ~IsOverdue(state.tasks[t], at)
    /\ \A d \in state.tasks[t].deps : state.tasks[d].status = "completed"

\* Tokens of claims are random in the code; here they are numbered, to tell them apart.
Claim(state, at, a, r) ==
    LET token == state.tokens + 1
        claim == [agent |-> a, token |-> token, until |-> at + r.lease]
    IN  IF ~IsReady(state, at, r.task)
        THEN Refused(state)
        ELSE Done([state EXCEPT !.tasks[r.task].status = "claimed", !.tasks[r.task].claims = @ \union {claim}, !.tokens = token],
                  [None EXCEPT !.tasks = {r.task}])

ClaimOf(state, at, a, r) ==
    {c \in Live(state.tasks[r.task].claims, at) :
        c.agent = a /\ (r.token = 0 \/ c.token = r.token) /\ ~IsOverdue(state.tasks[r.task], at)}

Heartbeat(state, at, a, r) ==
    LET mine == ClaimOf(state, at, a, r)
    IN  IF mine = {}
        THEN Refused(state)
        ELSE Done([state EXCEPT !.tasks[r.task].claims = {[c EXCEPT !.until = at + r.lease] : c \in mine}],
                  [None EXCEPT !.tasks = {r.task}])

\* Only who holds the claim reports, while its lease runs.
Complete(state, at, a, r) ==
    LET task == state.tasks[r.task]
        done == [task EXCEPT !.status = "completed", !.attempts = @ + 1, !.claims = {}]
        ended == IF r.success THEN done ELSE Spend(task)
    IN  IF ClaimOf(state, at, a, r) = {}
        THEN Refused(state)
        ELSE WithDependants(state, [state.tasks EXCEPT ![r.task] = ended], {r.task})

Cancel(state, a, r) ==
    LET task == state.tasks[r.task]
        spent == IF task.status = "claimed" THEN 1 ELSE 0
        ended == [task EXCEPT !.status = "cancelled", !.attempts = @ + spent, !.claims = {}]
    IN  IF task.status \in Final \union {"absent"} \/ (task.by # a /\ ~r.any)
        THEN Refused(state)
        ELSE WithDependants(state, [state.tasks EXCEPT ![r.task] = ended], {r.task})

\* What time, or a holder that is gone, does to a task.
Ended(task, at) ==
    IF IsOverdue(task, at)
    THEN [task EXCEPT !.status = "failed", !.attempts = @ + (IF task.status = "claimed" THEN 1 ELSE 0), !.claims = {}]
    ELSE Spend(task)

HasLapsed(task, at) ==
    \/ task.status = "claimed" /\ Live(task.claims, at) = {}
    \/ task.status \in {"pending", "claimed"} /\ IsOverdue(task, at)

\* The service ends what time has run out for: some of it at once, the rest later.
Expire(state, at, r) ==
    LET lapsed == {t \in r.tasks : HasLapsed(state.tasks[t], at)}
    IN  WithDependants(state, [t \in Tasks |-> IF t \in lapsed THEN Ended(state.tasks[t], at) ELSE state.tasks[t]], lapsed)

\* Agents leave, or the service finds that they are gone: their locks are free, their claims are over.
GiveUp(state, at, r) ==
    LET keys == {k \in r.keys : \E g \in state.grants[k] : g.agent \in r.agents}
        tasks == {t \in r.tasks : state.tasks[t].status = "claimed" /\ \E c \in state.tasks[t].claims : c.agent \in r.agents}
        kept(k) == {g \in state.grants[k] : g.agent \notin r.agents}
        freed == [state EXCEPT !.grants = [k \in Keys |-> IF k \in keys THEN kept(k) ELSE @[k]]]
        ended == [t \in Tasks |-> IF t \in tasks THEN Ended(state.tasks[t], at) ELSE state.tasks[t]]
        came == WithDependants(freed, ended, tasks)
    IN  [came EXCEPT !.changes.keys = keys]

\* Who may do what changes with a version: decisions that were made before no longer stand.
SetFacts(state, r) ==
    Done([state EXCEPT !.facts[r.agent] = [profile |-> r.profile, suspended |-> r.suspended, version |-> @.version + 1]],
         [None EXCEPT !.agents = {r.agent}])

Activate(state, r) ==
    IF r.expected # state.epoch
    THEN Refused(state)
    ELSE Done([state EXCEPT !.epoch = @ + 1, !.active = r.component], [None EXCEPT !.epochs = {state.epoch + 1}])

Apply(state, at, a, r, cap) ==
    CASE r.op = "acquire"       -> Acquire(state, at, a, r, cap)
      [] r.op = "renew"         -> Renew(state, at, a, r)
      [] r.op = "release"       -> Release(state, at, a, r)
      [] r.op = "force_release" -> ForceRelease(state, at, r)
      [] r.op = "submit"        -> Submit(state, a, r)
      [] r.op = "claim"         -> Claim(state, at, a, r)
      [] r.op = "heartbeat"     -> Heartbeat(state, at, a, r)
      [] r.op = "complete"      -> Complete(state, at, a, r)
      [] r.op = "cancel"        -> Cancel(state, a, r)
      [] r.op = "expire"        -> Expire(state, at, r)
      [] r.op = "give_up"       -> GiveUp(state, at, r)
      [] r.op = "set_facts"     -> SetFacts(state, r)
      [] r.op = "activate"      -> Activate(state, r)
      [] OTHER                  -> Done(state, None)

-----------------------------------------------------------------------------
(* Decisions. One is made from what the store says now, and is carried out   *)
(* later; in between others may be.                                          *)

\* The trust is that of the caller's own profile, as the component in force resolves it. Nobody hands it in.
TrustOf(state, a) == IF state.facts[a].suspended THEN 0 ELSE Trust(state.active, state.facts[a].profile)

\* A component that gives no answer allows nothing.
Verdict(state, a, r, answers) ==
    IF ~answers THEN "unavailable"
    ELSE IF Allows(state.active, TrustOf(state, a), r) THEN "allow" ELSE "deny"

Decided(state, a, r, answers) == [
    agent     |-> a,
    request   |-> r,
    verdict   |-> Verdict(state, a, r, answers),
    trust     |-> TrustOf(state, a),
    cap       |-> LockCap(state.active, TrustOf(state, a)),
    component |-> state.active,
    epoch     |-> state.epoch,
    version   |-> state.facts[a].version]

\* What was decided still stands: neither the policy nor what is known of the caller has changed.
Stands(state, d) == d.epoch = state.epoch /\ d.version = state.facts[d.agent].version

NextSeq == IF log = <<>> THEN 1 ELSE log[Len(log)].seq + 1
Record(row) == Append(log, row)
Row(d, outcome, changes) == [seq |-> NextSeq, at |-> now, decision |-> d, outcome |-> outcome, changes |-> changes]

\* One transaction: the standing check, the effect and the row, or the row alone.
CarryOut(d) ==
    IF ~Stands(db, d)
    THEN /\ db' = db
         /\ log' = Record(Row(d, "failed", None))
    ELSE IF d.verdict # "allow"
    THEN /\ db' = db
         /\ log' = Record(Row(d, "denied", None))
    ELSE LET came == Apply(db, now, d.agent, d.request, d.cap)
         IN  /\ db' = came.db
             /\ log' = Record(Row(d, came.outcome, came.changes))

-----------------------------------------------------------------------------
(* Actions. *)

Init ==
    /\ now = 1
    /\ db = FirstState
    /\ flight = [a \in Agents |-> Nothing]
    /\ log = <<>>

\* Time matters only while something waits for it.
IsAwaited ==
    \/ \E k \in Keys : Live(db.grants[k], now) # {}
    \/ \E t \in Tasks : Live(db.tasks[t].claims, now) # {}
    \/ \E t \in Tasks : db.tasks[t].status \in {"pending", "claimed"} /\ db.tasks[t].deadline > now

Tick ==
    /\ IsAwaited
    /\ now' = now + 1
    /\ UNCHANGED <<db, flight, log>>

Decide(a, r, answers) ==
    /\ flight[a] = Nothing
    /\ flight' = [flight EXCEPT ![a] = Decided(db, a, r, answers)]
    /\ UNCHANGED <<now, db, log>>

Commit(a) ==
    /\ flight[a] # Nothing
    /\ CarryOut(flight[a])
    /\ flight' = [flight EXCEPT ![a] = Nothing]
    /\ UNCHANGED now

\* Decided and carried out with nobody in between.
Perform(a, r, answers) ==
    /\ flight[a] = Nothing
    /\ CarryOut(Decided(db, a, r, answers))
    /\ UNCHANGED <<now, flight>>

\* The host dies: what was not committed is gone without a trace.
Crash(a) ==
    /\ flight[a] # Nothing
    /\ flight' = [flight EXCEPT ![a] = Nothing]
    /\ UNCHANGED <<now, db, log>>

-----------------------------------------------------------------------------
(* What is promised. The names are the invariants' identifiers.              *)

\* EXCL: nobody else holds what one holds.
EXCL_OneHolder == \A k \in Keys : Cardinality(Live(db.grants[k], now)) <= 1
EXCL_TokensBelowFence == \A k \in Keys : \A g \in db.grants[k] : g.token <= db.fences[k]
\* EXCL: a new grant has a token above all earlier ones, and a token stays with its agent.
EXCL_Fencing ==
    \A k \in Keys :
        /\ db'.fences[k] >= db.fences[k]
        /\ \A g \in db'.grants[k] :
              \/ g.token > db.fences[k]
              \/ \E before \in db.grants[k] : before.token = g.token /\ before.agent = g.agent

\* CLAIM: one claim at a time, and only a claimed task has one.
CLAIM_OneHolder ==
    \A t \in Tasks : /\ Cardinality(db.tasks[t].claims) <= 1
                     /\ (db.tasks[t].status = "claimed") <=> (db.tasks[t].claims # {})
CLAIM_Attempts == \A t \in Tasks : db.tasks[t].attempts <= db.tasks[t].max
\* CLAIM: nothing becomes ready, claimed or completed before what it waits for.
CLAIM_Dependencies ==
    \A t \in Tasks : db.tasks[t].status \in {"claimed", "completed"} =>
        \A d \in db.tasks[t].deps : db.tasks[d].status = "completed"
\* CLAIM: nothing rewrites what is final; what fails leaves nobody waiting for it.
CLAIM_FinalStays ==
    \A t \in Tasks : db.tasks[t].status \in Final => db'.tasks[t] = db.tasks[t]
CLAIM_NobodyWaitsInVain ==
    \A t \in Tasks : db.tasks[t].status = "pending" =>
        \A d \in db.tasks[t].deps : db.tasks[d].status \notin {"failed", "cancelled"}
\* CLAIM: completed by its holder, under a lease that runs, and with the token of the present claim.
CLAIM_ByHolder ==
    \A t \in Tasks : db'.tasks[t].status = "completed" /\ db.tasks[t].status # "completed" =>
        LET d == log'[Len(log')].decision
        IN  \E c \in Live(db.tasks[t].claims, now) :
                c.agent = d.agent /\ (d.request.token = 0 \/ d.request.token = c.token)
\* CLAIM: nobody takes or finishes what is past its deadline.
CLAIM_InTime ==
    \A t \in Tasks : db'.tasks[t].status \in {"claimed", "completed"} /\ db'.tasks[t].status # db.tasks[t].status =>
        db.tasks[t].deadline = 0 \/ now < db.tasks[t].deadline
CLAIM_AttemptsCount ==
    \A t \in Tasks : db.tasks[t].status = "claimed" /\ db'.tasks[t].status # "claimed" =>
        db'.tasks[t].attempts = db.tasks[t].attempts + 1

\* What differs between two states.
Difference(a, b) == [
    keys   |-> {k \in Keys : a.grants[k] # b.grants[k] \/ a.fences[k] # b.fences[k]},
    tasks  |-> {t \in Tasks : a.tasks[t] # b.tasks[t]},
    agents |-> {x \in Agents : a.facts[x] # b.facts[x]},
    epochs |-> IF a.epoch # b.epoch \/ a.active # b.active THEN {b.epoch} ELSE {}]

Last == log'[Len(log')]

\* GATE: a change comes with an allow of this very request, by the policy in force, about the caller as it is now.
GATE_Allowed ==
    db' # db =>
        /\ Len(log') = Len(log) + 1
        /\ Last.decision.verdict = "allow"
        /\ Last.decision.epoch = db.epoch
        /\ Last.decision.component = db.active
        /\ Last.decision.version = db.facts[Last.decision.agent].version
        /\ ~db.facts[Last.decision.agent].suspended

\* DENY: what is not done changes nothing.
DENY_NoEffect == Len(log') > Len(log) /\ Last.outcome # "ok" => db' = db

\* AUDIT: the log only grows, by one row without a gap, and says exactly what changed.
AUDIT_Grows ==
    /\ Len(log') \in {Len(log), Len(log) + 1}
    /\ SubSeq(log', 1, Len(log)) = log
    /\ \A i \in 1 .. Len(log') : log'[i].seq = i
AUDIT_SaysWhatChanged ==
    /\ db' # db => Len(log') = Len(log) + 1
    /\ Len(log') > Len(log) => Difference(db, db') = [
           keys |-> {k \in Last.changes.keys : db.grants[k] # db'.grants[k] \/ db.fences[k] # db'.fences[k]},
           tasks |-> {t \in Last.changes.tasks : db.tasks[t] # db'.tasks[t]},
           agents |-> Last.changes.agents, epochs |-> Last.changes.epochs]

\* REPLAY: the component of the row, asked again, says the same.
REPLAY_Same ==
    Len(log') > Len(log) /\ Last.decision.verdict # "unavailable" =>
        Last.decision.verdict =
            IF Allows(Last.decision.component, Last.decision.trust, Last.decision.request) THEN "allow" ELSE "deny"

\* REVOKE: what is acknowledged about a caller or the policy only moves on, and what is done is done under the newest of it.
REVOKE_Holds ==
    /\ db'.epoch >= db.epoch
    /\ db'.epoch = db.epoch => db'.active = db.active
    /\ \A a \in Agents : /\ db'.facts[a].version >= db.facts[a].version
                         /\ db'.facts[a].version = db.facts[a].version => db'.facts[a] = db.facts[a]
    /\ Len(log') > Len(log) /\ Last.outcome \in {"ok", "refused"} =>
           /\ Last.decision.epoch = db.epoch
           /\ Last.decision.version = db.facts[Last.decision.agent].version

\* TRUST: the trust that was decided with is that of the caller's profile under the component that decided.
TRUST_OfCaller ==
    Len(log') > Len(log) /\ Last.outcome = "ok" =>
        Last.decision.trust = Trust(db.active, db.facts[Last.decision.agent].profile)

Invariants ==
    /\ EXCL_OneHolder /\ EXCL_TokensBelowFence
    /\ CLAIM_OneHolder /\ CLAIM_Attempts /\ CLAIM_Dependencies /\ CLAIM_NobodyWaitsInVain

=============================================================================
