package main

import (
	"cmp"
	"encoding/json"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// sighting is an event as it was seen on its way.
type sighting struct {
	subject     string
	payload     []byte
	first, last time.Time
	times       int
	event       bool // and nothing that only was published like one
}

// tap listens to what is published, beside the stream that keeps it. It may miss what is published in the moment after
// NATS came back, so what it did not see proves nothing; what it saw tells where an event got lost.
type tap struct {
	mu        sync.Mutex
	byID      map[string]*sighting
	byRequest map[string][]string // event ids
}

func (t *tap) start(r *rig.Rig) error {
	t.byID, t.byRequest = map[string]*sighting{}, map[string][]string{}
	return r.Watch("audit.>", t.heard)
}

func (t *tap) heard(m *nats.Msg) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, payload := range auditevent.Split(m.Subject, m.Data) {
		t.note(m, payload, now)
	}
}

func (t *tap) note(m *nats.Msg, payload []byte, now time.Time) {
	var event struct {
		ID      string `json:"eventId"`
		Request string `json:"requestId"`
	}
	_ = json.Unmarshal(payload, &event) // what is no event has no request
	id := cmp.Or(m.Header.Get(nats.MsgIdHdr), event.ID)
	if len(payload) < len(m.Data) { // a line among others: the message's id is not its own
		id = cmp.Or(event.ID, id)
	}
	if seen := t.byID[id]; seen != nil {
		seen.last = now
		seen.times++
		return
	}
	t.byID[id] = &sighting{subject: m.Subject, payload: payload, first: now, last: now, times: 1, event: event.ID != "" && event.ID == id}
	t.byRequest[event.Request] = append(t.byRequest[event.Request], id)
}

// seen answers what was published under a request id.
func (t *tap) seen(request string) []*sighting {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*sighting, 0, len(t.byRequest[request]))
	for _, id := range t.byRequest[request] {
		all = append(all, t.byID[id])
	}
	return all
}

// any event that was seen, nil if none was.
func (t *tap) any() *sighting {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, seen := range t.byID {
		if seen.event {
			return seen
		}
	}
	return nil
}

// firsts are the moments at which events were seen for the first time.
func (t *tap) firsts() []time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]time.Time, 0, len(t.byID))
	for _, seen := range t.byID {
		if seen.event {
			all = append(all, seen.first)
		}
	}
	return all
}

// payload of an event as it was published; nil where it was not seen.
func (t *tap) payload(id string) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seen := t.byID[id]; seen != nil {
		return seen.payload
	}
	return nil
}
