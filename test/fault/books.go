package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// event is one as the trail holds it.
type event struct {
	id, action, request string
	at                  time.Time
	members             map[string]any // the whole of it
	payload             []byte
}

func readEvent(payload []byte) (event, error) {
	e := event{payload: payload}
	var known struct {
		ID      string    `json:"eventId"`
		Action  string    `json:"action"`
		Request string    `json:"requestId"`
		At      time.Time `json:"timestamp"`
	}
	if err := json.Unmarshal(payload, &known); err != nil {
		return e, fmt.Errorf("read an event: %w", err)
	}
	e.id, e.action, e.request, e.at = known.ID, known.Action, known.Request, known.At
	return e, json.Unmarshal(payload, &e.members)
}

// member at a path such as metadata.jti; nil where there is none.
func (e event) member(path string) any {
	var value any = e.members
	for name := range strings.SplitSeq(path, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[name]
	}
	return value
}

func (e event) String() string {
	return fmt.Sprintf("event %s %s of %s, request %s", e.id, e.action, e.at.UTC().Format(clock), e.request)
}

// finding is something in the books that does not balance.
type finding struct {
	what     string
	requests []string // under which to look for traces
	from, to time.Time
}

// drift is how far the time of an event may lie outside of that of its request: all clocks are one.
const drift = 2 * time.Second

// balance holds what clients saw against the events there are.
func balance(actions []*action, events []event) []finding {
	byRequest := map[string][]event{}
	ids := map[string]int{}
	for _, e := range events {
		byRequest[e.request] = append(byRequest[e.request], e)
		ids[e.id]++
	}
	var found []finding
	for id, times := range ids {
		if times > 1 {
			found = append(found, finding{what: fmt.Sprintf("event %s is in the trail %d times", id, times)})
		}
	}
	for _, a := range actions {
		var own, beside []event
		for _, request := range a.requests {
			for _, e := range byRequest[request] {
				if e.action == a.side.kind {
					beside = append(beside, e)
				} else {
					own = append(own, e)
				}
			}
			delete(byRequest, request)
		}
		if wrong := a.wrong(own, beside); wrong != "" {
			found = append(found, finding{what: wrong + ": " + a.String(), requests: a.requests, from: a.began, to: a.ended})
		}
	}
	for request, events := range byRequest {
		for _, e := range events {
			found = append(found, finding{what: "nobody asked for it: " + e.String(), requests: []string{request}, from: e.at, to: e.at})
		}
	}
	return found
}

// wrong says what is wrong with the events of an action, its own and those beside, "" if nothing is.
func (a *action) wrong(own, beside []event) string {
	switch {
	case len(own) > 1:
		return fmt.Sprintf("%d events instead of one", len(own))
	case a.outcome == done && len(own) == 0:
		return "no event of an acknowledged action"
	case a.outcome == refused && len(own) > 0:
		return "an event of what did not happen: " + own[0].String()
	case len(own) == 0 && len(beside) > 0:
		return "an event beside none: " + beside[0].String()
	case len(own) == 0:
		return ""
	}
	for _, e := range beside {
		if wrong := a.side.unlike(e); wrong != "" {
			return "beside it " + wrong
		}
	}
	return a.unlike(own[0])
}

// unlike says how its event differs from all that it may be, "" if it does not.
func (a *action) unlike(e event) string {
	if e.at.Before(a.began.Add(-drift)) || a.outcome == done && e.at.After(a.ended.Add(drift)) {
		return "an event of another time: " + e.String()
	}
	var wrong []string
	for _, f := range a.forms {
		unlike := f.unlike(e)
		if unlike == "" {
			return ""
		}
		wrong = append(wrong, unlike)
	}
	return strings.Join(wrong, "; or ")
}

// unlike says how an event differs from a form, "" if it does not.
func (f form) unlike(e event) string {
	if e.action != f.kind {
		return "another action's event: " + e.String()
	}
	for path, wanted := range f.want {
		if got := e.member(path); !reflect.DeepEqual(got, wanted) {
			return fmt.Sprintf("%s is %v in the event, and %v in truth", path, got, wanted)
		}
	}
	return ""
}

// state is what the services' databases hold in the end.
type state struct {
	agents      map[string]agentState
	credentials map[string]credentialState
	revoked     map[string]bool // jti
}

type agentState struct {
	revision int64
	status   string
}

type credentialState struct {
	agent, status string
	rotated       *time.Time // the last time; nil for never
}

// same is how far two records of one moment may differ: neither keeps all digits of it.
const same = 5 * time.Millisecond

// reconcile holds what became of agents, credentials and tokens against the events: each change has one, whoever saw it.
func (s state) reconcile(events []event) []finding {
	counts := map[string]int{} // by action and what it is about
	latest := map[string]event{}
	for _, e := range events {
		var about string
		switch {
		case e.action == agentCreated:
			about, _ = e.member("agentId").(string)
		case strings.HasPrefix(e.action, "agent."):
			about, _ = e.member("agentId").(string)
			counts["changes "+about]++
		case strings.HasPrefix(e.action, "credential."):
			about, _ = e.member("metadata.credentialId").(string)
		case e.action == tokenRevoked:
			about, _ = e.member("metadata.jti").(string)
		default:
			continue
		}
		counts[e.action+" "+about]++
		latest[about] = e
	}
	var found []finding
	expect := func(wanted int, action, about string) {
		key := action + " " + about
		if counts[key] != wanted {
			found = append(found, finding{
				what:     fmt.Sprintf("the database says %d × %s, the trail %d", wanted, key, counts[key]),
				requests: []string{latest[about].request, about}, from: latest[about].at, to: latest[about].at,
			})
		}
		delete(counts, key)
	}
	for id, a := range s.agents {
		expect(1, agentCreated, id)
		expect(int(a.revision-1), "changes", id)
		expect(one(a.status == "decommissioned"), agentDecommissioned, id)
	}
	for id, c := range s.credentials {
		expect(1, credentialGenerated, id)
		expect(one(c.status == "revoked"), credentialRevoked, id)
		delete(counts, credentialRotated+" "+id)
		if s.agents[c.agent].status == "decommissioned" && c.status != "revoked" {
			found = append(found, finding{what: "credential " + id + " of a decommissioned agent is not revoked", requests: []string{id, c.agent}})
		}
	}
	for jti := range s.revoked {
		expect(1, tokenRevoked, jti)
	}
	return slices.Concat(found, strangers(counts), s.rotations(events))
}

// rotations holds when each credential was rotated last against the last event of that.
func (s state) rotations(events []event) []finding {
	latest := map[string]event{}
	for _, e := range events {
		if e.action != credentialRotated {
			continue
		}
		about, _ := e.member("metadata.credentialId").(string)
		if e.at.After(latest[about].at) {
			latest[about] = e
		}
	}
	var found []finding
	for id, c := range s.credentials {
		if wrong := c.unlike(latest[id].at); wrong != "" {
			found = append(found, finding{what: "credential " + id + " " + wrong, requests: []string{latest[id].request, id}})
		}
	}
	return found
}

// unlike says how a credential's last rotation differs from the last one in the trail, "" if it does not. How often it
// was rotated before, no database says.
func (c credentialState) unlike(trail time.Time) string {
	switch {
	case c.rotated == nil && trail.IsZero():
		return ""
	case c.rotated == nil:
		return "was rotated at " + trail.UTC().Format(clock) + ", says the trail, and never, says the database"
	case trail.IsZero():
		return "was rotated at " + c.rotated.UTC().Format(clock) + ", says the database, and never, says the trail"
	case c.rotated.Sub(trail).Abs() > same:
		return "was rotated last at " + c.rotated.UTC().Format(clock) + ", says the database, and at " +
			trail.UTC().Format(clock) + ", says the trail"
	}
	return ""
}

// strangers are events about what no database knows.
func strangers(counts map[string]int) []finding {
	var found []finding
	for key, count := range counts {
		for _, action := range []string{
			agentCreated, agentDecommissioned, credentialGenerated,
			credentialRotated, credentialRevoked, tokenRevoked,
		} {
			if about, ok := strings.CutPrefix(key, action+" "); ok && count > 0 {
				found = append(found, finding{what: fmt.Sprintf("%d × %s, of which the database knows nothing", count, key), requests: []string{about}})
			}
		}
	}
	return found
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// agree holds two readings of the trail against each other: shown is what GET /audit answered, stored the database.
func agree(shown, stored []event, compare func(shown, stored event) string) []finding {
	byID := make(map[string]event, len(stored))
	for _, e := range stored {
		byID[e.id] = e
	}
	var found []finding
	seen := map[string]bool{}
	for _, e := range shown {
		original, ok := byID[e.id]
		switch {
		case !ok:
			found = append(found, finding{what: "GET /audit shows what is not stored: " + e.String()})
		case seen[e.id]:
			found = append(found, finding{what: "GET /audit shows twice: " + e.String()})
		default:
			if wrong := compare(e, original); wrong != "" {
				found = append(found, finding{what: "GET /audit shows " + wrong + ": " + e.String()})
			}
		}
		seen[e.id] = true
	}
	for _, e := range stored {
		if !seen[e.id] {
			found = append(found, finding{what: "GET /audit does not show: " + e.String(), requests: []string{e.request}})
		}
	}
	return found
}

// differs compares all members that are shown with what is stored; all that is stored is shown but the version of its form.
func differs(shown, stored event) string {
	for name := range stored.members {
		if _, there := shown.members[name]; !there && name != "schemaVersion" {
			return "no " + name
		}
	}
	for name, value := range shown.members {
		if name == "timestamp" && shown.at.Equal(stored.at) {
			continue
		}
		if !reflect.DeepEqual(value, stored.members[name]) {
			return fmt.Sprintf("%v as %s instead of %v", value, name, stored.members[name])
		}
	}
	return ""
}
