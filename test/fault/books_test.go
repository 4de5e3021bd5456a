package main

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// happened is an event under a request id.
func happened(t *testing.T, id, action, request, more string) event {
	t.Helper()
	e, err := readEvent(fmt.Appendf(nil, `{"eventId":%q,"action":%q,"requestId":%q,"timestamp":%q%s}`,
		id, action, request, noon.Format(time.RFC3339), more))
	require.NoError(t, err)
	return e
}

func asked(result outcome, kinds ...string) *action {
	a := &action{requests: []string{"r1", "r2"}, outcome: result, began: noon, ended: noon}
	for _, kind := range kinds {
		a.forms = append(a.forms, form{kind: kind})
	}
	return a
}

func TestTheBooksOfActions(t *testing.T) {
	t.Parallel()
	issued := happened(t, "e1", "token.issued", "r1", `,"agentId":"a","metadata":{"jti":"j"}`)
	again := happened(t, "e2", "token.issued", "r2", "")
	refusal := happened(t, "e3", "auth.failed", "r1", "")
	stranger := happened(t, "e4", "token.issued", "r9", "")
	cascade := happened(t, "e5", "credential.revoked", "r1", `,"agentId":"a"`)
	another := happened(t, "e6", "credential.revoked", "r1", `,"agentId":"b"`)
	wanted := asked(done, "token.issued")
	wanted.forms[0].want = map[string]any{"agentId": "a", "metadata.jti": "j", "actorId": nil}
	other := asked(done, "token.issued")
	other.forms[0].want = map[string]any{"metadata.jti": "k"}
	unknown := asked(unsure, "token.issued")
	unknown.forms = other.forms
	late := asked(done, "token.issued")
	late.ended = noon.Add(-time.Minute)
	late.began = late.ended
	decommissioned := asked(done, "token.issued")
	decommissioned.side = form{"credential.revoked", map[string]any{"agentId": "a"}}
	notSo := asked(refused, "token.issued")
	notSo.side = decommissioned.side
	either := asked(done, "token.issued", "auth.failed")
	either.forms[0].want, either.forms[1].want = other.forms[0].want, map[string]any{"agentId": nil}
	for name, c := range map[string]struct {
		action *action
		events []event
		wrong  string
	}{
		"an acknowledged action with its event":      {wanted, []event{issued}, ""},
		"an acknowledged action without one":         {wanted, nil, "no event of an acknowledged action"},
		"two events of one action":                   {wanted, []event{issued, again}, "2 events instead of one"},
		"one event stored twice":                     {asked(unsure, "token.issued"), []event{issued, issued}, "in the trail 2 times"},
		"another token in the event":                 {other, []event{issued}, "metadata.jti is j in the event, and k in truth"},
		"another action":                             {wanted, []event{refusal}, "another action's event"},
		"an event of another time":                   {late, []event{issued}, "an event of another time"},
		"an unsure action with an event":             {asked(unsure, "token.issued", "auth.failed"), []event{refusal}, ""},
		"an unsure action without one":               {asked(unsure, "token.issued"), nil, ""},
		"an unsure action with another event":        {unknown, []event{issued}, "metadata.jti is j in the event, and k in truth"},
		"an unsure action with two":                  {asked(unsure, "token.issued"), []event{issued, again}, "2 events instead of one"},
		"an action that was refused":                 {asked(refused, "token.issued"), nil, ""},
		"an event of what was refused":               {asked(refused, "token.issued"), []event{issued}, "an event of what did not happen"},
		"an event that nobody asked for":             {asked(refused, "token.issued"), []event{stranger}, "nobody asked for it"},
		"what an action causes beside its own event": {decommissioned, []event{issued, cascade}, ""},
		"what it causes to another":                  {decommissioned, []event{issued, cascade, another}, "beside it agentId is b"},
		"what it causes, without its own event":      {notSo, []event{cascade}, "an event beside none"},
		"one of two forms":                           {either, []event{refusal}, ""},
		"none of two forms":                          {either, []event{issued}, "and k in truth; or another action's event"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := balance([]*action{c.action}, c.events)
			if c.wrong == "" {
				require.Empty(t, found)
				return
			}
			require.NotEmpty(t, found)
			require.Contains(t, found[0].what, c.wrong)
		})
	}
}

func TestTheBooksOfTheDatabase(t *testing.T) {
	t.Parallel()
	held := state{
		agents: map[string]agentState{"a": {revision: 3, status: "decommissioned"}}, revoked: map[string]bool{"j": true},
		credentials: map[string]credentialState{"c": {agent: "a", status: "revoked"}},
	}
	const credential = `,"metadata":{"credentialId":"c"}`
	events := []event{
		happened(t, "1", "agent.created", "r", `,"agentId":"a"`), happened(t, "2", "agent.updated", "r", `,"agentId":"a"`),
		happened(t, "3", "agent.decommissioned", "r", `,"agentId":"a"`), happened(t, "4", "credential.generated", "r", credential),
		happened(t, "5", "credential.revoked", "r", credential), happened(t, "6", "token.revoked", "r", `,"metadata":{"jti":"j"}`),
		happened(t, "7", "token.issued", "r", ""),
	}
	require.Empty(t, held.reconcile(events))
	for missing := range events[:6] {
		var rest []event
		rest = append(append(rest, events[:missing]...), events[missing+1:]...)
		require.NotEmpty(t, held.reconcile(rest), "without %s", events[missing])
		require.NotEmpty(t, held.reconcile(append(rest, events[missing], events[missing])), "with two of %s", events[missing])
	}
	require.Len(t, held.reconcile(append(events, happened(t, "8", "token.revoked", "r", `,"metadata":{"jti":"k"}`))), 1,
		"the database knows nothing of that revocation")
	held.credentials["c"] = credentialState{agent: "a", status: "active"}
	require.NotEmpty(t, held.reconcile(events), "a decommissioned agent has an active credential")
}

func TestTheLastRotationHasItsEvent(t *testing.T) {
	t.Parallel()
	const credential = `,"metadata":{"credentialId":"c"}`
	at := noon.Add(time.Millisecond) // the database keeps more digits
	again := at.Add(time.Minute)
	generated, rotated := happened(t, "1", "credential.generated", "r", credential), happened(t, "2", "credential.rotated", "r", credential)
	stranger := happened(t, "3", "credential.rotated", "r", `,"metadata":{"credentialId":"d"}`)
	for name, c := range map[string]struct {
		held   *time.Time
		events []event
		wrong  string
	}{
		"never rotated":              {nil, []event{generated}, ""},
		"rotated":                    {&at, []event{generated, rotated}, ""},
		"rotated without its event":  {&at, []event{generated}, "never, says the trail"},
		"rotated again without":      {&again, []event{generated, rotated}, "at 12:00:00.000, says the trail"},
		"an event of no rotation":    {nil, []event{generated, rotated}, "never, says the database"},
		"a rotation of what is gone": {nil, []event{generated, stranger}, "knows nothing"},
	} {
		held := state{credentials: map[string]credentialState{"c": {agent: "a", status: "active", rotated: c.held}}}
		found := held.reconcile(c.events)
		if c.wrong == "" {
			require.Empty(t, found, name)
			continue
		}
		require.Len(t, found, 1, name)
		require.Contains(t, found[0].what, c.wrong, name)
	}
}

func TestWhatIsShownIsWhatIsStored(t *testing.T) {
	t.Parallel()
	one, two := happened(t, "e1", "token.issued", "r1", ""), happened(t, "e2", "token.issued", "r2", `,"metadata":{"jti":"j"}`)
	changed := happened(t, "e2", "token.issued", "r2", `,"metadata":{"jti":"k"}`)
	stored := []event{one, two}
	require.Empty(t, agree([]event{two, one}, stored, differs))
	require.Contains(t, agree([]event{one}, stored, differs)[0].what, "does not show")
	require.Contains(t, agree([]event{one, one, two}, stored, differs)[0].what, "twice")
	require.Contains(t, agree([]event{one, changed}, stored, differs)[0].what, "as metadata")
	require.Contains(t, agree([]event{one, happened(t, "e2", "token.issued", "r2", "")}, stored, differs)[0].what, "no metadata")
	require.Contains(t, agree([]event{one, two}, []event{one}, differs)[0].what, "not stored")
}

func TestWhatAClientKnowsOfAnAttempt(t *testing.T) {
	t.Parallel()
	cut := errors.New("connection reset")
	for name, c := range map[string]struct {
		attempt attempt
		want    outcome
		again   bool
	}{
		"an acknowledgement":           {attempt{reached: true, status: http.StatusCreated}, done, false},
		"a refusal":                    {attempt{reached: true, status: http.StatusConflict}, refused, false},
		"a server in trouble":          {attempt{reached: true, status: http.StatusServiceUnavailable}, unsure, true},
		"nobody listened":              {attempt{err: cut}, refused, true},
		"cut off":                      {attempt{reached: true, err: cut}, unsure, true},
		"cut off amid acknowledgement": {attempt{reached: true, status: http.StatusOK, err: cut}, unsure, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, c.attempt.result())
			require.Equal(t, c.again, c.attempt.again())
		})
	}
}

func TestEveryPoisonIsADeadLetterOnce(t *testing.T) {
	t.Parallel()
	const sure, unsure = "poison-00000000-0000-4000-8000-000000000001", "poison-00000000-0000-4000-8000-000000000002"
	p := poisoner{acknowledged: map[string]bool{sure: true, unsure: false}}
	one, two := letter{payload: []byte(sure)}, letter{payload: []byte(`{"marker":"` + unsure + `"}`)}
	require.Empty(t, p.buried([]letter{one}))
	require.Empty(t, p.buried([]letter{one, two}))
	require.Contains(t, p.buried(nil)[0].what, "0 times")
	require.Contains(t, p.buried([]letter{one, one})[0].what, "2 times")
	require.Contains(t, p.buried([]letter{one, {subject: "audit.token.token.issued", reason: "no reason"}})[0].what, "no reason")
}
