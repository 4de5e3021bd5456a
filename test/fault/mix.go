package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

// The load while replicas come and go. It is less of each kind than beside faults, as what is judged is that nothing fails.
const (
	rolledOperators = 4
	rolledFleets    = 2
	readers         = 3
	leastLive       = 100 * time.Millisecond
	mostLive        = 500 * time.Millisecond
	leastLook       = 20 * time.Millisecond
	mostLook        = 120 * time.Millisecond
	readsOfLife     = 300
	// tokensOfFleet is less than an agent may have in a month.
	tokensOfFleet = 200
	// unhurried is how long clients wait for an answer then: longer than a service takes to say that it cannot.
	unhurried = 25 * time.Second
	// Idle connections are closed by the clients: a request on one that the proxy closes at that moment would fail.
	mostIdle = 64
	idleFor  = 30 * time.Second
	// firstCaller is the number of the workers that reach limits.
	firstCaller = 100

	readerScopes = "agents:read agents:write tokens:read audit:read"
)

// mix runs all that clients do, through the proxy, until ctx ends, and returns when the last of them has its last answer.
func (r *run) mix(ctx context.Context) {
	through, done := r.through()
	defer done()
	var group sync.WaitGroup
	for number := range rolledOperators + rolledFleets + readers {
		w := r.worker(number, through)
		switch {
		case number < rolledOperators:
			w.thinks(leastLive, mostLive)
			group.Go(func() {
				w.everything(ctx) // so that each kind of action is among what is judged
				w.live(ctx)
			})
		case number < rolledOperators+rolledFleets:
			w.thinks(0, mostDelay)
			group.Go(func() {
				for ctx.Err() == nil {
					w.fleet(ctx, tokensOfFleet)
				}
			})
		default:
			reader := &reader{worker: w}
			if number == rolledOperators+rolledFleets { // one alone, so that what it saw has an order
				reader.saw = func(o observed) { r.observer.seen = append(r.observer.seen, o) }
			}
			w.thinks(leastLook, mostLook)
			group.Go(func() {
				for ctx.Err() == nil {
					reader.life(ctx)
				}
			})
		}
	}
	group.Wait()
}

// through is what sends to all services through the proxy, and is judged. It keeps connections open as clients in the
// field do; whoever has it must say when it is done.
func (r *run) through() (s sender, done func()) {
	transport := &http.Transport{MaxIdleConnsPerHost: mostIdle, IdleConnTimeout: idleFor}
	entrance := []replica{{name: "the proxy", address: r.rig.Entrance()}}
	replicas := map[string][]replica{}
	for _, service := range rig.Services() {
		replicas[service] = entrance
	}
	client := &http.Client{Transport: transport}
	return sender{http: client, replicas: replicas, patience: unhurried, judge: r.judge.see}, transport.CloseIdleConnections
}

// reader is an agent that looks at all there is to be seen.
type reader struct {
	*worker

	saw    func(observed) // told of checkpoints; nil for nobody
	bearer string
	member *member
	event  string // an event about it
	size   string // of the log
}

// life of the agent that reads.
func (d *reader) life(ctx context.Context) {
	d.event, d.size = "", ""
	if d.member = d.register(ctx); d.member == nil || !d.credential(ctx, d.member) {
		return
	}
	token := d.fetch(ctx, d.member.id, d.member.credentials[0].value, readerScopes)
	if token == "" {
		return
	}
	d.bearer = "Bearer " + token
	for range readsOfLife {
		if !d.pause(ctx) {
			return
		}
		d.look(ctx)
	}
	d.decommission(ctx, d.member)
}

// look at one thing, of each service as often.
func (d *reader) look(ctx context.Context) {
	agent := "/api/v1/agents/" + d.member.id
	choices := map[string][]string{
		"registry":    {agent, "/api/v1/agents?limit=5"},
		"credentials": {agent + "/credentials", agent + "/credentials?status=active"},
		"token":       {"/.well-known/jwks.json", "/.well-known/oauth-authorization-server"},
		"audit":       {"/api/v1/audit?limit=5&agentId=" + d.member.id, "/api/v1/audit/checkpoint"},
	}
	if d.event != "" {
		choices["audit"] = append(choices["audit"], "/api/v1/audit/"+d.event, "/api/v1/audit/"+d.event+"/proof")
	}
	if d.size != "" {
		choices["audit"] = append(choices["audit"], "/api/v1/audit/consistency?from=1&to="+d.size)
	}
	service := rig.Services()[d.random.IntN(len(choices))]
	path := choices[service][d.random.IntN(len(choices[service]))]
	t := d.send(context.WithoutCancel(ctx), request{service: service, method: http.MethodGet, path: path, bearer: d.bearer})
	if t.again() {
		return
	}
	var err error
	switch {
	case t.status != http.StatusOK:
		err = fmt.Errorf("it is there, and nobody took it away")
	case strings.HasSuffix(path, "/checkpoint"):
		err = d.checkpoint(t)
	case strings.HasPrefix(path, "/api/v1/audit?"):
		err = d.events(t)
	}
	if err != nil {
		d.ledger.surprise("%s: %v (request %s)", t, err, t.id)
	}
}

func (d *reader) checkpoint(t attempt) error {
	lines := strings.SplitN(string(t.body), "\n", 3)
	if len(lines) < 3 {
		return fmt.Errorf("no checkpoint: %q", t.body)
	}
	if lines[1] != "0" {
		d.size = lines[1]
	}
	if d.saw != nil {
		d.saw(observed{replica: t.replica, at: time.Now(), signed: t.body})
	}
	return nil
}

func (d *reader) events(t attempt) error {
	var page struct {
		Data []struct {
			ID string `json:"eventId"`
		} `json:"data"`
	}
	if err := json.Unmarshal(t.body, &page); err != nil {
		return err
	}
	if len(page.Data) > 0 {
		d.event = page.Data[0].ID
	}
	return nil
}
