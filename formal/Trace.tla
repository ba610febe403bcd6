------------------------------- MODULE Trace -------------------------------
(* Is a log a behaviour of Coordination? Each row of an exported audit log   *)
(* is one step, which the specification has to allow: the decision was made  *)
(* under the epoch and the facts that were in force, and what came of it is  *)
(* what the specification's transition says. The log itself is the module    *)
(* Log, which `portreeve audit export --format tla` writes.                  *)
(*                                                                           *)
(* A row that does not fit ends the run with its number and the reason. A    *)
(* step that could not be taken at all would be a deadlock, which is checked *)
(* as well, so that a hole in this module does not pass as an accepted log.  *)
EXTENDS Coordination, Log, TLC

VARIABLES
    next,       \* the number of the next row
    trusts,     \* what is known of trust: [component, profile] -> trust, or 9
    touched,    \* when each key and task was changed last
    rejected    \* the reason why the last row does not fit, or ""

trace == <<vars, next, trusts, touched, rejected>>

\* The rows are numbered by their place; so are agents, keys, tasks, components and profiles.
TraceAgents == 1 .. LogAgents
TraceKeys == 1 .. LogKeys
TraceTasks == 1 .. LogTasks
TraceComponents == 0 .. LogComponents
TraceProfiles == 0 .. LogProfiles

\* Nobody is known before a row of the log says so, but for the service itself.
TraceFacts == [a \in TraceAgents |-> [profile |-> 0, suspended |-> FALSE, version |-> IF a = LogSystem THEN 1 ELSE 0]]

Unknown == 9
TraceTrust(component, profile) == Unknown
\* What the policy says is not asked here: the row says it, and replay asks the component.
TraceAllows(component, trust, r) == TRUE
TraceLockCap(component, trust) == 0
\* The log is what is read, so that none is kept.
TraceRecord(row) == log

-----------------------------------------------------------------------------
(* What a row says came of it, in the words of the specification. *)

TokenOf(state, k) == IF state.grants[k] = {} THEN 0 ELSE (CHOOSE g \in state.grants[k] : TRUE).token

SaidKeys(came) == {<<k, TokenOf(came.db, k)>> : k \in came.changes.keys}
SaidTasks(came) == {<<t, came.db.tasks[t].status, came.db.tasks[t].attempts>> : t \in came.changes.tasks}
SaidAgents(came) == {<<a, came.db.facts[a].version>> : a \in came.changes.agents}

ChangesOf(row) == row.keys \union row.tasks \union row.agents \union row.epochs

\* What the row was decided from. A row of the service's own first steps, before any policy, has no component in force.
DecisionOf(row) == [agent |-> row.agent, epoch |-> row.epoch, version |-> row.version]

\* Rows of several hosts that have nothing to do with each other may be a little out of order in time; those of one key or
\* task are not.
IsEarly(row) ==
    \/ \E k \in row.keys : row.at < touched.keys[k[1]]
    \/ \E t \in row.tasks : row.at < touched.tasks[t[1]]

\* A function with another value for what changed: quicker than to make it anew for all.
RECURSIVE SetAt(_, _, _)
SetAt(times, changed, at) ==
    IF changed = {}
    THEN times
    ELSE LET one == CHOOSE c \in changed : TRUE
         IN  SetAt([times EXCEPT ![one[1]] = at], changed \ {one}, at)

Touched(row) == [keys |-> SetAt(touched.keys, row.keys, row.at), tasks |-> SetAt(touched.tasks, row.tasks, row.at)]

KnownTrust(row) == trusts[row.component][row.profile]

\* Why the row cannot have happened here; "" if it can.
Problem(row, came) ==
    LET stands == Stands(db, DecisionOf(row))
        facts == db.facts[row.agent]
        isDone == row.outcome = "ok"
    IN  CASE row.seq # next -> "a row is missing, or is there twice"
          [] IsEarly(row) -> "it happened before what it builds on"
          [] row.verdict # "allow" /\ row.outcome \notin {"denied", "stale"} -> "a request that was not allowed was carried out"
          [] ~isDone /\ ChangesOf(row) # {} -> "a request that was not done changed something"
          [] row.epoch > db.epoch -> "decided under an epoch that is still to come"
          [] row.version > facts.version -> "decided from facts about the caller that are still to come"
          [] row.outcome = "stale" /\ stands -> "said to be out of date, and it was not"
          [] row.outcome \notin {"stale", "failed"} /\ row.epoch < db.epoch -> "decided under an epoch that was over"
          [] row.outcome \notin {"stale", "failed"} /\ row.version < facts.version ->
                "decided from facts about the caller that were over"
          \* What was out of date, or failed after it had come to be, is held against nothing that is known now.
          [] row.outcome = "stale" \/ ~stands -> ""
          [] row.epoch > 0 /\ row.component # db.active -> "decided by a component that was not in force"
          [] row.profile # facts.profile /\ row.agent # LogSystem -> "decided for another profile than the caller's"
          [] row.isAsked /\ ~facts.suspended /\ KnownTrust(row) \notin {Unknown, row.trust} -> "another trust than the profile's"
          [] row.verdict = "allow" /\ facts.suspended -> "allowed although the caller is suspended"
          [] row.verdict # "allow" -> ""
          [] row.outcome = "failed" -> ""
          [] row.outcome = "replayed" -> ""
          [] row.r.op = "limit" -> ""
          [] came.outcome # row.outcome /\ isDone -> "done, although something stood against it"
          [] came.outcome # row.outcome -> "not done, although nothing stood against it"
          [] ~row.isAsAsked -> "it gives a longer or a shorter lease than was asked for"
          [] SaidKeys(came) # row.keys -> "it changes other locks, or gives other tokens, than the row says"
          [] SaidTasks(came) # row.tasks -> "it changes other tasks, or otherwise, than the row says"
          [] SaidAgents(came) # row.agents -> "it changes other agents, or otherwise, than the row says"
          [] came.changes.epochs # row.epochs -> "it begins another epoch than the row says"
          [] OTHER -> ""

\* Nothing is carried out for a row that does not reach the state.
CameOf(row) ==
    IF row.verdict = "allow" /\ row.outcome \in {"ok", "refused", "denied"} /\ row.r.op # "limit"
    THEN Apply(db, row.at, row.agent, row.r, row.cap)
    ELSE Refused(db)

Learned(row) ==
    IF row.isAsked /\ ~db.facts[row.agent].suspended /\ row.outcome # "stale"
    THEN [trusts EXCEPT ![row.component][row.profile] = row.trust]
    ELSE trusts

TraceInit ==
    /\ Init
    /\ next = 1
    /\ trusts = [c \in TraceComponents |-> [p \in TraceProfiles |-> Unknown]]
    /\ touched = [keys |-> [k \in TraceKeys |-> 0], tasks |-> [t \in TraceTasks |-> 0]]
    /\ rejected = ""

Step ==
    /\ next <= Len(Rows)
    /\ rejected = ""
    /\ LET row == Rows[next]
           came == CameOf(row)
           problem == Problem(row, came)
       IN  /\ rejected' = problem
           /\ IF problem = ""
              THEN /\ next' = next + 1
                   /\ now' = row.at
                   /\ db' = IF row.outcome = "ok" THEN came.db ELSE db
                   /\ trusts' = Learned(row)
                   /\ touched' = Touched(row)
              ELSE UNCHANGED <<next, now, db, trusts, touched>>
    /\ UNCHANGED <<flight, log>>

\* The end of the log, and of a log that does not fit.
Stop == (next > Len(Rows) \/ rejected # "") /\ UNCHANGED trace

TraceSpec == TraceInit /\ [][Step \/ Stop]_trace

\* The rows come one after the other, so their number tells the states apart.
Place == <<next, rejected>>

Accepted == rejected = ""
=============================================================================
