------------------------------ MODULE Mutants ------------------------------
(* Ways to be wrong, each in the place of one operator of the specification. *)
(* `mutants.txt` says which property has to find each of them.               *)
EXTENDS MC

\* A lock is granted without a look at who holds it.
GrantBlindly(state, at, a, r, cap) ==
    LET grant == [agent |-> a, token |-> NextFence(state, r.key), until |-> at + r.lease]
    IN  Done([state EXCEPT !.grants[r.key] = @ \union {grant}, !.fences[r.key] = grant.token],
             [None EXCEPT !.keys = {r.key}])

\* A lease is compared with the clock of a host that is ahead, and lasts by the server's.
AcquireByHostClock(state, at, a, r, cap) ==
    LET held == Live(state.grants[r.key], at + 1)
        grant == [agent |-> a, token |-> NextFence(state, r.key), until |-> at + r.lease]
    IN  IF held # {}
        THEN Refused(state)
        ELSE Done([state EXCEPT !.grants[r.key] = Live(@, at) \union {grant}, !.fences[r.key] = grant.token],
                  [None EXCEPT !.keys = {r.key}])

\* The token of a grant is the last one again.
SameFence(state, k) == IF state.fences[k] = 0 THEN 1 ELSE state.fences[k]

\* The token is given, and not remembered.
GrantAndForget(state, at, a, r, cap) ==
    IF Live(state.grants[r.key], at) # {}
    THEN Refused(state)
    ELSE Done([state EXCEPT !.grants[r.key] = {[agent |-> a, token |-> NextFence(state, r.key), until |-> at + r.lease]}],
              [None EXCEPT !.keys = {r.key}])

\* Who releases a lock takes its fence away with it.
ReleaseAndForget(state, at, a, r) ==
    LET mine == HeldBy(state, at, a, r)
    IN  IF mine = {}
        THEN Refused(state)
        ELSE Done([state EXCEPT !.grants[r.key] = @ \ mine, !.fences[r.key] = 0], [None EXCEPT !.keys = {r.key}])

\* A lock is released for somebody who does not hold it any more: an answer that says no, and a change.
RefusedButDone(state, at, a, r) ==
    LET mine == HeldBy(state, at, a, r)
        freed == [state EXCEPT !.grants[r.key] = {}]
    IN  IF mine = {}
        THEN Refused(freed)
        ELSE Done(freed, [None EXCEPT !.keys = {r.key}])

\* A task is claimed by whoever saw it, whoever was first.
ClaimWhatWasSeen(state, at, a, r) ==
    LET token == state.tokens + 1
        claim == [agent |-> a, token |-> token, until |-> at + r.lease]
    IN  IF state.tasks[r.task].status \notin {"pending", "claimed"} \/ \E d \in state.tasks[r.task].deps : state.tasks[d].status # "completed"
        THEN Refused(state)
        ELSE Done([state EXCEPT !.tasks[r.task].status = "claimed", !.tasks[r.task].claims = @ \union {claim}, !.tokens = token],
                  [None EXCEPT !.tasks = {r.task}])

\* Dependencies are not waited for.
ReadyAtOnce(state, at, t) == state.tasks[t].status = "pending"

\* No task is ever too late.
NeverTooLate(task, at) == FALSE

\* A task may be claimed until its deadline, and at it.
ReadyAtTheEnd(state, at, t) ==
    /\ state.tasks[t].status = "pending"
    /\ state.tasks[t].deadline = 0 \/ at <= state.tasks[t].deadline
    /\ \A d \in state.tasks[t].deps : state.tasks[d].status = "completed"

\* Whoever held the task once may report, lease or no lease.
ClaimAfterItsLease(state, at, a, r) == {c \in state.tasks[r.task].claims : c.agent = a}

\* Anybody reports.
AnybodysClaim(state, at, a, r) == Live(state.tasks[r.task].claims, at)

\* What is final is cancelled.
CancelAnything(state, a, r) ==
    IF state.tasks[r.task].status = "absent"
    THEN Refused(state)
    ELSE Done([state EXCEPT !.tasks[r.task].status = "cancelled", !.tasks[r.task].claims = {}],
              [None EXCEPT !.tasks = {r.task}])

\* One attempt too many.
SpendOneMore(task) ==
    [task EXCEPT !.attempts = @ + 1, !.claims = {}, !.status = IF task.attempts + 1 > task.max THEN "failed" ELSE "pending"]

\* An attempt that ran out is not counted.
SpendNothing(task) == [task EXCEPT !.claims = {}, !.status = "pending"]

\* What fails leaves its dependants alone.
Alone(state, tasks, changed) == Done([state EXCEPT !.tasks = tasks], [None EXCEPT !.tasks = changed])

\* Nobody asks whether a decision still stands.
StandsAlways(state, d) == TRUE

\* The caller's facts are looked at again, the policy is not.
StandsForCaller(state, d) == d.version = state.facts[d.agent].version

\* The policy's epoch is looked at again, the caller is not.
StandsForPolicy(state, d) == d.epoch = state.epoch

\* A component that gives no answer lets everything pass.
OpenOnFailure(state, a, r, answers) ==
    IF ~answers \/ Allows(state.active, TrustOf(state, a), r) THEN "allow" ELSE "deny"

\* A denial is recorded, and the request carried out as well.
EffectAnyway(d) ==
    LET came == Apply(db, now, d.agent, d.request, d.cap)
    IN  /\ db' = came.db
        /\ log' = Record(Row(d, IF d.verdict = "allow" THEN came.outcome ELSE "denied", came.changes))

\* Everybody is as trusted as the most trusted.
TrustInEverybody(state, a) == 3

\* The row gets lost.
Lose(row) == log

\* The row of a change takes the place of the one before.
Overwrite(row) == IF log = <<>> THEN <<row>> ELSE [log EXCEPT ![Len(log)] = [row EXCEPT !.seq = Len(log)]]

\* A number is left out.
SkipSeq == IF log = <<>> THEN 2 ELSE log[Len(log)].seq + 1

\* The row does not say what else changed.
TellNothing(state, changes) == [outcome |-> "ok", db |-> state, changes |-> None]

\* Another policy, under the same epoch.
ActivateInPlace(state, r) ==
    Done([state EXCEPT !.active = r.component], [None EXCEPT !.epochs = {state.epoch}])

\* A suspension without a new version of the facts.
SuspendInPlace(state, r) ==
    Done([state EXCEPT !.facts[r.agent].suspended = r.suspended], [None EXCEPT !.agents = {r.agent}])

\* The service does not look for what has run out.
NeverLapsed(task, at) == FALSE

\* Nobody need claim what is there.
NobodyClaims ==
    WF_vars(Tick) /\ \A t \in Tasks : WF_vars(\E a \in Agents : \E r \in WorkingBy(t, "expire") : Perform(a, r, TRUE))

\* Time need not pass.
WithoutTime == \A t \in Tasks : WF_vars(\E a \in Agents : \E r \in WorkingBy(t, "expire") : Perform(a, r, TRUE))
=============================================================================
