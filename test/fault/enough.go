package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

// leastDone is how many of each kind of action must have been acknowledged in a minute of load, whatever was struck: a
// small part of what a busy machine does. Books of nothing balance too, and would show nothing.
func leastDone() map[string]int {
	return map[string]int{
		agentCreated: 6, agentUpdated: 10, agentSuspended: 3, agentReactivated: 3, agentDecommissioned: 2,
		credentialGenerated: 6, credentialRotated: 3, credentialRevoked: 1,
		tokenIssued: 100, tokenIntrospected: 3, tokenRevoked: 3, authFailed: 3,
	}
}

// backWithin is how long after a fault what it struck may do nothing that succeeds: others may be away by then.
const backWithin = 30 * time.Second

// enough says what was too little for the books to show anything: actions of a kind, faults that did not strike while
// there was load, and what did nothing any more after it was healed.
func (r *run) enough(blows []blow) []finding {
	return slices.Concat(few(r.ledger.actions, r.begin, r.over), missed(blows, r.over), r.silent(blows))
}

// few are the kinds of which too few actions were acknowledged between two moments.
func few(actions []*action, begin, over time.Time) []finding {
	counts := map[string]int{}
	for _, a := range actions {
		if a.outcome == done && !a.ended.After(over) {
			counts[a.forms[0].kind]++
		}
	}
	var found []finding
	least := leastDone()
	for _, kind := range slices.Sorted(maps.Keys(least)) {
		wanted := max(1, int(float64(least[kind])*over.Sub(begin).Minutes()))
		if counts[kind] < wanted {
			found = append(found, finding{what: fmt.Sprintf("too little to judge by: %d × %s acknowledged, of at least %d", counts[kind], kind, wanted)})
		}
	}
	return found
}

// missed are the faults that struck nothing, or no load.
func missed(blows []blow, over time.Time) []finding {
	var found []finding
	for _, b := range blows {
		switch {
		case b.struck.IsZero() || b.healed.IsZero():
			found = append(found, finding{what: "never struck: " + b.String()})
		case b.struck.After(over):
			found = append(found, finding{what: "struck after the load had ended: " + b.String(), from: b.struck, to: b.healed})
		}
	}
	return found
}

// silent are the faults after which what they struck did nothing that succeeded for too long while the load lasted. What
// was healed later than that is left to the roll call.
func (r *run) silent(blows []blow) []finding {
	signs := r.signs()
	var found []finding
	for _, b := range blows {
		if b.healed.IsZero() || b.healed.Add(backWithin).After(r.over) {
			continue
		}
		for _, who := range struckBy(b.fault) {
			if !within(signs[who], b.healed, b.healed.Add(backWithin)) {
				found = append(found, finding{
					what: fmt.Sprintf("nothing succeeds at %s for %s after %s", who, backWithin, b), from: b.struck, to: b.healed.Add(backWithin),
				})
			}
		}
	}
	return found
}

// published is whose signs of life are what is published.
const published = "the stream AUDIT"

// struckBy a fault are those who can do nothing while its target is away, or less.
func struckBy(f fault) []string {
	for _, service := range rig.Services() {
		if rig.Program(f.target) == service {
			return []string{f.target}
		}
	}
	return append(rig.Services(), published)
}

// signs of life while the load lasted: when each replica, each service and the stream did something that succeeded.
func (r *run) signs() map[string][]time.Time {
	signs := map[string][]time.Time{published: r.tap.firsts()}
	sign := func(replica string, at time.Time) {
		signs[replica] = append(signs[replica], at)
		service := rig.Program(replica)
		signs[service] = append(signs[service], at)
	}
	for _, a := range r.ledger.actions {
		if a.outcome == done && a.by != "" {
			sign(a.by, a.ended)
		}
	}
	for _, o := range r.observer.seen {
		sign(o.replica, o.at)
	}
	return signs
}

func within(moments []time.Time, from, to time.Time) bool {
	return slices.ContainsFunc(moments, func(m time.Time) bool { return m.After(from) && !m.After(to) })
}
