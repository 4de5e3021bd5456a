package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// acknowledged are actions of every kind, as many as a minute needs.
func acknowledged() []*action {
	var all []*action
	for kind, least := range leastDone() {
		for range least {
			all = append(all, &action{forms: []form{{kind: kind}}, outcome: done, began: noon, ended: noon})
		}
	}
	return all
}

func TestBooksOfTooLittleShowNothing(t *testing.T) {
	t.Parallel()
	over := noon.Add(time.Minute)
	require.Empty(t, few(acknowledged(), noon, over))
	require.Len(t, few(acknowledged(), noon, over.Add(time.Minute)), len(leastDone()), "for two minutes it is too little of all")
	require.Len(t, few(nil, noon, noon.Add(time.Second)), len(leastDone()), "a second needs one of each")
	for i, a := range acknowledged() {
		for name, less := range map[string]func(a *action){
			"refused":                  func(a *action) { a.outcome = refused },
			"unsure":                   func(a *action) { a.outcome = unsure },
			"done after all was over":  func(a *action) { a.ended = over.Add(time.Second) },
			"done, but something else": func(a *action) { a.forms = []form{{kind: "agent.renamed"}} },
		} {
			actions := acknowledged()
			changed := *actions[i]
			less(&changed)
			actions[i] = &changed
			found := few(actions, noon, over)
			require.Len(t, found, 1, "%s, but %s", a.forms[0].kind, name)
			require.Contains(t, found[0].what, "too little to judge by")
		}
	}
}

func TestAFaultThatDidNotStrikeUnderLoadIsFound(t *testing.T) {
	t.Parallel()
	over := noon.Add(time.Minute)
	f := fault{kind: kill, target: "nats"}
	require.Empty(t, missed([]blow{{f, noon, noon.Add(time.Second)}, {f, over.Add(-time.Second), over.Add(time.Second)}}, over))
	for name, b := range map[string]blow{
		"never struck":        {fault: f},
		"never healed":        {fault: f, struck: noon},
		"struck at the end":   {f, over.Add(time.Second), over.Add(2 * time.Second)},
		"healed, never begun": {fault: f, healed: noon},
	} {
		require.Len(t, missed([]blow{b}, over), 1, name)
	}
}

func TestWhatWasStruckMustSucceedAgain(t *testing.T) {
	t.Parallel()
	healed, back := noon, noon.Add(backWithin/2)
	// All that is a sign of life, but that of who is named.
	without := func(who string) *run {
		r := &run{over: noon.Add(time.Hour)}
		for _, replica := range []string{"token-1", "token-2", "registry-1", "credentials-1"} {
			r.ledger.add(&action{forms: []form{{kind: tokenIssued}}, outcome: done, by: replica, ended: back})
		}
		r.observer.seen = []observed{{replica: "audit-1", at: back}}
		r.tap.byID = map[string]*sighting{"e": {first: back, event: true}}
		switch who {
		case "audit-1":
			r.observer.seen[0].at = healed.Add(-time.Second)
		case published:
			r.tap.byID["e"].first = healed.Add(backWithin + time.Second)
		default:
			for _, a := range r.ledger.actions {
				if a.by == who {
					a.outcome = unsure
				}
			}
		}
		return r
	}
	after := func(target string) []blow {
		return []blow{{fault{kind: stall, target: target}, healed.Add(-time.Second), healed}}
	}
	for _, target := range []string{"token-1", "audit-1", "nats", "redis", "postgres", "AUDIT", "LIFECYCLE"} {
		require.Empty(t, without("").silent(after(target)), target)
	}
	for target, who := range map[string]string{
		"token-1": "token-1", "audit-1": "audit-1", "nats": published, "redis": "registry-1", "postgres": "credentials-1", "AUDIT": published,
	} {
		r := without(who)
		require.Len(t, r.silent(after(target)), 1, "%s after %s", who, target)
		r.over = healed.Add(backWithin - time.Second)
		require.Empty(t, r.silent(after(target)), "what was healed late is left to the roll call")
	}
	require.Empty(t, without("token-1").silent(after("token-2")))
	require.Empty(t, without("token-1").silent(after("postgres")), "another replica of it did something")
}
