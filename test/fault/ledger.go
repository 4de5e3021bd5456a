package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// The actions that events tell of, as the trail names them.
const (
	agentCreated        = "agent.created"
	agentUpdated        = "agent.updated"
	agentSuspended      = "agent.suspended"
	agentReactivated    = "agent.reactivated"
	agentDecommissioned = "agent.decommissioned"
	credentialGenerated = "credential.generated" // #nosec G101 -- a word of the protocol
	credentialRotated   = "credential.rotated"   // #nosec G101 -- a word of the protocol
	credentialRevoked   = "credential.revoked"   // #nosec G101 -- a word of the protocol
	tokenIssued         = "token.issued"
	tokenIntrospected   = "token.introspected"
	tokenRevoked        = "token.revoked"
	authFailed          = "auth.failed"
)

// outcome is what a client knows of an action.
type outcome int

const (
	refused outcome = iota // answered so, or never sent: it did not happen
	unsure                 // no answer, or that of a server in trouble: it may have happened
	done                   // acknowledged
)

func (o outcome) String() string { return [...]string{"refused", "unsure", "done"}[o] }

// action is something that a client asked for, with all attempts at it. Where an attempt repeats the one before, as under
// an idempotency key, they are one action; else each is one.
type action struct {
	forms    []form    // of its event: if done one of them, exactly once; if unsure at most once. The first names the action
	side     form      // of events that it causes beside its own under its request id, however many; none if that is empty
	requests []string  // X-Request-ID of each attempt
	outcome  outcome   // of all attempts
	began    time.Time // before the first attempt
	ended    time.Time // after the last one
	last     string    // what the last attempt was, and its answer
	by       string    // the replica that acknowledged it; "" if none did
}

// form of an event: its action, and its members by their path, as JSON reads them, as far as they are known.
type form struct {
	kind string
	want map[string]any
}

func (a *action) String() string {
	return fmt.Sprintf("%s (%s, requests %s, %s to %s, last: %s)", a.forms[0].kind, a.outcome,
		strings.Join(a.requests, " "), a.began.Format(clock), a.ended.Format(clock), a.last)
}

// clock is how moments are shown: the services log in UTC.
const clock = "15:04:05.000"

// note takes the result of one more attempt; an action that was done once stays so, as does one that may have been.
func (a *action) note(t attempt, result outcome) {
	a.requests = append(a.requests, t.id)
	a.outcome = max(a.outcome, result)
	a.ended, a.last = time.Now(), t.String()
	if result == done {
		a.by = t.replica
	}
}

// ledger is what all clients saw. It is safe for concurrent use.
type ledger struct {
	mu        sync.Mutex
	actions   []*action
	surprises []string
}

func (l *ledger) add(a *action) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.actions = append(l.actions, a)
}

// surprise is an answer that is wrong, whatever was away.
func (l *ledger) surprise(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.surprises = append(l.surprises, fmt.Sprintf(format, args...))
}

// summary counts actions by kind and outcome.
func (l *ledger) summary() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]*[3]int{}
	for _, a := range l.actions {
		name := a.forms[0].kind
		if counts[name] == nil {
			counts[name] = &[3]int{}
		}
		counts[name][a.outcome]++
	}
	lines := make([]string, 0, len(counts))
	for name, c := range counts {
		lines = append(lines, fmt.Sprintf("%-20s %6d done %5d unsure %5d refused", name, c[done], c[unsure], c[refused]))
	}
	slices.Sort(lines)
	return lines
}
