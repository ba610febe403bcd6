--------------------------------- MODULE MC ---------------------------------
(* Bounds for the model checker, and which actions it may take: `Core` with  *)
(* decisions that are carried out at once, `Split` with decisions in flight, *)
(* suspensions, swaps of the policy and hosts that die.                      *)
EXTENDS Coordination, TLC

CONSTANTS a1, a2, k1, k2, t1, t2, open, strict

CONSTANTS MaxFence, MaxTokens, MaxEpoch, MaxVersion
CONSTANT Deadlines      \* how long after its submission a task is given up; 0 is never

MCTrust(component, profile) == IF profile = "high" THEN 3 ELSE 2
MCAllows(component, trust, r) ==
    CASE trust = 0 -> FALSE
      [] r.op \in {"set_facts", "activate", "expire", "force_release", "give_up"} -> trust = 3
      [] component = strict -> trust = 3 \/ r.op \notin {"acquire", "submit"}
      [] OTHER -> TRUE
MCLockCap(component, trust) == IF trust = 3 THEN 9 ELSE 1

Facts(profile) == [profile |-> profile, suspended |-> FALSE, version |-> 1]

CoreFacts == [a \in Agents |-> Facts("high")]
SplitFacts == [a \in Agents |-> IF a = a1 THEN Facts("high") ELSE Facts("low")]

Deps(t) == IF t = t2 THEN {t1} ELSE {}

Locking(k) ==
    {[op |-> "acquire", key |-> k, lease |-> 2], [op |-> "release", key |-> k, token |-> 0]}
        \union {[op |-> "renew", key |-> k, token |-> n, lease |-> 2] : n \in {db.fences[k]} \ {0}}

Working(t) ==
    {[op |-> "submit", task |-> t, deps |-> Deps(t), max |-> 2, deadline |-> IF d = 0 THEN 0 ELSE now + d] : d \in Deadlines}
        \union
    {[op |-> "claim", task |-> t, lease |-> 1],
     [op |-> "complete", task |-> t, token |-> 0, success |-> TRUE],
     [op |-> "complete", task |-> t, token |-> 0, success |-> FALSE],
     [op |-> "cancel", task |-> t, any |-> FALSE],
     [op |-> "expire", tasks |-> {t}]}

\* Grants, claims and versions are counted; beyond these bounds there is nothing new.
IsBounded(r) ==
    CASE r.op = "acquire"   -> db.fences[r.key] < MaxFence \/ Live(db.grants[r.key], now) # {}
      [] r.op = "claim"     -> db.tokens < MaxTokens
      [] r.op = "activate"  -> db.epoch < MaxEpoch
      [] r.op = "set_facts" -> db.facts[r.agent].version < MaxVersion
      [] OTHER              -> TRUE

\* Of each kind of change one, so that two in flight can be of any two kinds.
Administering ==
    {[op |-> "set_facts", agent |-> a2, profile |-> db.facts[a2].profile, suspended |-> ~db.facts[a2].suspended]}
        \union {[op |-> "activate", component |-> c, expected |-> db.epoch] : c \in Components}
        \union {[op |-> "give_up", agents |-> {a2}, keys |-> Keys, tasks |-> Tasks]}

SplitRequests ==
    {[op |-> "acquire", key |-> k, lease |-> 2] : k \in Keys}
        \union {[op |-> "release", key |-> k, token |-> 0] : k \in Keys}
        \union {[op |-> "claim", task |-> t, lease |-> 1] : t \in Tasks}
        \union {[op |-> "submit", task |-> t, deps |-> {}, max |-> 1, deadline |-> 0] : t \in Tasks}
        \union {[op |-> "complete", task |-> t, token |-> 0, success |-> TRUE] : t \in Tasks}

Requests == (UNION {Locking(k) : k \in Keys}) \union (UNION {Working(t) : t \in Tasks})

CoreNext == Tick \/ \E a \in Agents : \E r \in Requests : IsBounded(r) /\ Perform(a, r, TRUE)

SplitNext ==
    \/ Tick
    \/ \E a \in Agents :
          \/ \E r \in SplitRequests \union Administering, answers \in BOOLEAN : IsBounded(r) /\ Decide(a, r, answers)
          \/ flight[a] # Nothing /\ IsBounded(flight[a].request) /\ Commit(a)
          \/ Crash(a)

Core == Init /\ [][CoreNext]_vars
Split == Init /\ [][SplitNext]_vars

-----------------------------------------------------------------------------
(* Liveness: time passes, the service expires, agents that are there claim.  *)
(* Locks are not renewed and are granted so many times only, so that time    *)
(* ends by itself; the log is left out, which would tell all states apart.   *)

Forget(row) == log

Takes(k) == IF Live(db.grants[k], now) = {} THEN {[op |-> "acquire", key |-> k, lease |-> 2]} ELSE {}

LiveRequests ==
    (UNION {Takes(k) : k \in Keys}) \union (UNION {Working(t) : t \in Tasks})

WorkingBy(t, op) == {r \in Working(t) : r.op = op}

LiveNext == Tick \/ \E a \in Agents : \E r \in LiveRequests : IsBounded(r) /\ Perform(a, r, TRUE)

Fairness ==
    /\ WF_vars(Tick)
    /\ \A t \in Tasks :
          /\ WF_vars(\E a \in Agents : \E r \in WorkingBy(t, "expire") : Perform(a, r, TRUE))
          /\ WF_vars(\E a \in Agents : \E r \in WorkingBy(t, "claim") : Perform(a, r, TRUE))

Alive == Init /\ [][LiveNext]_vars /\ Fairness

\* EXCL: a lock that nobody renews becomes free.
EXCL_Freed == \A k \in Keys : (Live(db.grants[k], now) # {}) ~> (Live(db.grants[k], now) = {})
\* CLAIM: a claim ends, and a task that was submitted is over in the end.
CLAIM_Ends == \A t \in Tasks : (db.tasks[t].status = "claimed") ~> (db.tasks[t].status # "claimed")
CLAIM_TaskEnds == \A t \in Tasks : (db.tasks[t].status = "pending") ~> (db.tasks[t].status \in Final)

-----------------------------------------------------------------------------
(* What tells states apart: times as what is left of them, and not the log.  *)

Left(holdings) == {[h EXCEPT !.until = IF @ > now THEN @ - now ELSE 0] : h \in holdings}
Distinct == <<
    [k \in Keys |-> Left(db.grants[k])],
    [t \in Tasks |-> [db.tasks[t] EXCEPT !.claims = Left(@), !.deadline = IF @ = 0 THEN 0 ELSE IF @ > now THEN 1 + @ - now ELSE 1]],
    db.fences, db.tokens, db.facts, db.epoch, db.active, flight>>

Symmetric == Permutations(Agents) \union Permutations(Keys)

-----------------------------------------------------------------------------
(* Each promise about a step, as a property of its own, so that a violation  *)
(* names it.                                                                 *)

EXCL_Steps == [][EXCL_Fencing]_vars
CLAIM_FinalSteps == [][CLAIM_FinalStays]_vars
CLAIM_HolderSteps == [][CLAIM_ByHolder]_vars
CLAIM_AttemptSteps == [][CLAIM_AttemptsCount]_vars
CLAIM_TimeSteps == [][CLAIM_InTime]_vars
GATE_Steps == [][GATE_Allowed]_vars
DENY_Steps == [][DENY_NoEffect]_vars
AUDIT_GrowSteps == [][AUDIT_Grows]_vars
AUDIT_ChangeSteps == [][AUDIT_SaysWhatChanged]_vars
REPLAY_Steps == [][REPLAY_Same]_vars
REVOKE_Steps == [][REVOKE_Holds]_vars
TRUST_Steps == [][TRUST_OfCaller]_vars
=============================================================================
