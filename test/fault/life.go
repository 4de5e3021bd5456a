package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

// What operators ask their tokens for, and agents theirs.
const (
	operatorScopes = "agents:read agents:write agents:admin tokens:read audit:read"
	agentScopes    = "agents:read tokens:read"
)

// operatorTokenFor is how long an operator uses a token: they live for an hour.
const operatorTokenFor = 10 * time.Minute

// worker is one operator who brings agents up, uses them, changes them and ends them, one after the other. It behaves as
// clients in the field do: it tries again after a while where it got no answer or that of a server in trouble.
type worker struct {
	*sender

	number   int
	operator rig.Client
	ledger   *ledger
	think    func() time.Duration // between two requests

	bearer      string // a token of the operator
	bearerSince time.Time
	born        int
}

// member is an agent as its worker knows it.
type member struct {
	id          string
	version     int
	credentials []*secret
	tokens      []string // that nobody revoked
	doubt       bool     // whether an attempt to change it did so is not known
}

type secret struct{ id, value string }

// pause is the time between two requests; false when the work is over.
func (w *worker) pause(ctx context.Context) bool { return idle.For(ctx, w.think()) == nil }

// want of a service's event: what every one of this client's must hold.
func want(service, agent, actor string, more map[string]any) map[string]any {
	all := map[string]any{
		"userAgent": userAgent, "ipAddress": "127.0.0.1", "agentId": agent, "actorId": actor, "service": service, "outcome": "success",
	}
	maps.Copy(all, more)
	return all
}

// step is something a client tries until it has an answer.
type step struct {
	form // of its event, as far as that is known before anything is sent
	side form
	ask  request
	// repeats tells that a second attempt does not do it a second time, so that all attempts have one event.
	repeats bool
	// doubted are the statuses that are no surprise once an attempt may have done it unseen.
	doubted []int
	// doubt is set once an attempt may have done it unseen; nil where that matters to this step only.
	doubt *bool
	// vague are the forms of its event where that is set; nil where they are no others.
	vague []form
	// learn reads what the event must hold beside its form from an acknowledgement; nil if that says nothing more.
	learn func(t attempt) (map[string]any, error)
}

// take tries until the step is done or ctx ends, and says whether it is. Every attempt goes into the ledger.
func (w *worker) take(ctx context.Context, s step) bool {
	if s.doubt == nil {
		s.doubt = new(bool)
	}
	a := open(s)
	for ctx.Err() == nil {
		if !s.repeats && len(a.requests) > 0 {
			a = open(s)
		}
		t := w.send(context.WithoutCancel(ctx), s.ask)
		if w.note(s, a, t) == done {
			return true
		}
		if !t.again() {
			seen := *s.doubt && slices.Contains(s.doubted, t.status)
			if seen {
				a.outcome = done // by one of the attempts before
			} else {
				w.ledger.surprise("%s at %s (request %s)", t, time.Now().UTC().Format(clock), t.id)
			}
			return seen
		}
		if idle.For(ctx, w.backoff()) != nil {
			return false
		}
	}
	return false
}

// note takes one more attempt at a step into its action, and answers what came of it.
func (w *worker) note(s step, a *action, t attempt) outcome {
	result := t.result()
	a.note(t, result)
	if *s.doubt = *s.doubt || result == unsure; *s.doubt && s.vague != nil {
		a.forms = s.vague
	}
	if result == done && s.learn != nil {
		more, err := s.learn(t)
		maps.Copy(a.forms[0].want, more)
		if err != nil {
			w.ledger.surprise("%s: %v (request %s)", t, err, t.id)
		}
	}
	if !s.repeats || len(a.requests) == 1 {
		w.ledger.add(a)
	}
	return result
}

func open(s step) *action {
	return &action{forms: []form{{s.kind, maps.Clone(s.want)}}, side: s.side, began: time.Now()}
}

// backoff is as long as a client in the field would wait at first.
func (w *worker) backoff() time.Duration {
	return time.Duration(100+w.random.IntN(400)) * time.Millisecond
}

// life of one agent.
func (w *worker) life(ctx context.Context) {
	m := w.register(ctx)
	if m == nil || !w.credential(ctx, m) {
		return
	}
	for range 4 + w.random.IntN(14) {
		if !w.pause(ctx) || !w.move(ctx, m) {
			return
		}
	}
	if w.random.IntN(3) == 0 && w.pause(ctx) {
		w.decommission(ctx, m)
	}
}

// move does one of the things that are done with an agent; false ends its life.
func (w *worker) move(ctx context.Context, m *member) bool {
	switch n := w.random.IntN(20); {
	case n < 8:
		w.token(ctx, m)
	case n < 10:
		w.introspect(ctx, m)
	case n < 12:
		w.revokeToken(ctx, m)
	case n < 15:
		return w.update(ctx, m)
	case n < 16:
		return w.rotate(ctx, m)
	case n < 17:
		return w.credential(ctx, m)
	case n < 18:
		return w.revokeCredential(ctx, m)
	case n < 19:
		w.mistake(ctx, m)
	default:
		return w.suspend(ctx, m)
	}
	return true
}

// asOperator has a token of the operator; false when ctx ended before there was one.
func (w *worker) asOperator(ctx context.Context) bool {
	if w.bearer != "" && time.Since(w.bearerSince) < operatorTokenFor {
		return true
	}
	token := w.fetch(ctx, w.operator.ID, w.operator.Secret, operatorScopes)
	if token == "" {
		return false
	}
	w.bearer, w.bearerSince = "Bearer "+token, time.Now()
	return true
}

func (w *worker) register(ctx context.Context) *member {
	if !w.asOperator(ctx) {
		return nil
	}
	w.born++
	m := &member{}
	email := fmt.Sprintf("w%d-%d@fault.example", w.number, w.born)
	given := map[string]any{
		"email": email, "agentType": "screener", "version": m.versionIs(), "capabilities": []any{"resume:read"},
		"owner": "talent", "deploymentEnv": "production",
	}
	created := want("registry", "", w.operator.ID, nil)
	delete(created, "agentId") // is in the answer
	for name, value := range given {
		created["metadata."+name] = value
	}
	w.take(ctx, step{
		form: form{agentCreated, created}, repeats: true,
		ask: request{
			service: "registry", method: http.MethodPost, path: "/api/v1/agents", bearer: w.bearer, key: uuid.NewString(), body: given,
		},
		learn: func(t attempt) (map[string]any, error) {
			var agent struct {
				ID     string `json:"agentId"`
				Scopes any    `json:"allowedScopes"`
			}
			err := t.read(&agent)
			m.id = agent.ID
			return map[string]any{"agentId": m.id, "metadata.allowedScopes": agent.Scopes}, err
		},
	})
	if m.id == "" {
		return nil
	}
	return m
}

func (w *worker) credential(ctx context.Context, m *member) bool {
	return w.take(ctx, step{
		form: form{credentialGenerated, want("credentials", m.id, w.operator.ID, map[string]any{"metadata.expiresAt": nil})},
		ask: request{
			service: "credentials", method: http.MethodPost, path: "/api/v1/agents/" + m.id + "/credentials",
			bearer: w.bearer, body: struct{}{},
		},
		learn: func(t attempt) (map[string]any, error) {
			s, err := issued(t)
			m.credentials = append(m.credentials, s)
			return map[string]any{"metadata.credentialId": s.id}, err
		},
	})
}

func issued(t attempt) (*secret, error) {
	var answer struct {
		ID     string `json:"credentialId"`
		Secret string `json:"clientSecret"`
	}
	err := t.read(&answer)
	return &secret{id: answer.ID, value: answer.Secret}, err
}

func (w *worker) rotate(ctx context.Context, m *member) bool {
	s := m.credentials[w.random.IntN(len(m.credentials))]
	return w.take(ctx, step{
		form: form{credentialRotated, want("credentials", m.id, w.operator.ID, map[string]any{
			"metadata.credentialId": s.id, "metadata.gracePeriodSeconds": 0.0, "metadata.previousSecretExpiresAt": nil,
		})},
		ask: request{
			service: "credentials", method: http.MethodPost, bearer: w.bearer, body: struct{}{},
			path: "/api/v1/agents/" + m.id + "/credentials/" + s.id + "/rotate",
		},
		learn: func(t attempt) (map[string]any, error) {
			fresh, err := issued(t)
			s.value = fresh.value
			return nil, err
		},
	})
}

// revokeCredential leaves the agent one to live on, which it makes if there is no other.
func (w *worker) revokeCredential(ctx context.Context, m *member) bool {
	if len(m.credentials) < 2 && !w.credential(ctx, m) {
		return false
	}
	s := m.credentials[0]
	m.credentials = m.credentials[1:]
	return w.take(ctx, step{
		form: form{credentialRevoked, want("credentials", m.id, w.operator.ID, map[string]any{
			"metadata.credentialId": s.id, "metadata.reason": "requested",
		})},
		repeats: true, doubted: []int{http.StatusConflict},
		ask: request{
			service: "credentials", method: http.MethodDelete, bearer: w.bearer,
			path: "/api/v1/agents/" + m.id + "/credentials/" + s.id,
		},
	})
}

func (w *worker) update(ctx context.Context, m *member) bool {
	before := m.versionIs()
	m.version++
	return w.patch(ctx, m, agentUpdated, "version", before, m.versionIs())
}

func (m *member) versionIs() string { return fmt.Sprintf("1.0.%d", m.version) }

// suspend an agent and take that back; what it held is void then. In between it asks for a token.
func (w *worker) suspend(ctx context.Context, m *member) bool {
	m.tokens = nil
	if !w.patch(ctx, m, agentSuspended, "status", "active", "suspended") || !w.pause(ctx) {
		return false
	}
	refused := map[int]string{http.StatusForbidden: "agent_suspended"}
	w.ask(ctx, m.id, m.credentials[0].value, agentScopes, refused)
	if !w.patch(ctx, m, agentReactivated, "status", "suspended", "active") {
		return false
	}
	// A replica of the token service that heard nothing of it yet may refuse for a few seconds.
	for range 40 {
		if w.ask(ctx, m.id, m.credentials[0].value, agentScopes, refused) != "" {
			return true
		}
		if idle.For(ctx, w.backoff()) != nil {
			return false
		}
	}
	w.ledger.surprise("agent %s, active again, gets no token", m.id)
	return false
}

// patch one field of an agent. Once an attempt at that is in doubt it may be done at any moment, as a replica that was
// frozen goes on with what it had begun: from then on nobody knows what it changes, and what changes nothing says so.
func (w *worker) patch(ctx context.Context, m *member, kind, field, before, after string) bool {
	nothing, changed := map[string]any{}, map[string]any{field: after}
	event := func(kind string, more map[string]any) form {
		return form{kind, want("registry", m.id, w.operator.ID, more)}
	}
	return w.take(ctx, step{
		form: event(kind, map[string]any{
			"metadata.changes": []any{field}, "metadata.from": map[string]any{field: before}, "metadata.to": changed,
		}),
		vague: []form{
			event(kind, map[string]any{"metadata.changes": []any{field}, "metadata.to": changed}),
			event(agentUpdated, map[string]any{"metadata.changes": []any{}, "metadata.from": nothing, "metadata.to": nothing}),
		},
		doubt: &m.doubt,
		ask: request{
			service: "registry", method: http.MethodPatch, path: "/api/v1/agents/" + m.id, bearer: w.bearer, body: changed,
		},
	})
}

func (w *worker) decommission(ctx context.Context, m *member) bool {
	return w.take(ctx, step{
		form:    form{agentDecommissioned, want("registry", m.id, w.operator.ID, map[string]any{"metadata.from": "active"})},
		side:    form{credentialRevoked, want("credentials", m.id, w.operator.ID, map[string]any{"metadata.reason": "agent_decommissioned"})},
		repeats: true, doubted: []int{http.StatusConflict},
		ask: request{service: "registry", method: http.MethodDelete, path: "/api/v1/agents/" + m.id, bearer: w.bearer},
	})
}

func (w *worker) token(ctx context.Context, m *member) {
	s := m.credentials[w.random.IntN(len(m.credentials))]
	if token := w.fetch(ctx, m.id, s.value, agentScopes); token != "" {
		m.tokens = append(m.tokens, token)
	}
}

// fetch tries until there is a token; "" when ctx ended before.
func (w *worker) fetch(ctx context.Context, id, value, scope string) string {
	for {
		if token := w.ask(ctx, id, value, scope, nil); token != "" {
			return token
		}
		if idle.For(ctx, w.backoff()) != nil {
			return ""
		}
	}
}

// ask once for a token; "" if there was none. allowed are refusals that are no surprise, with the reason that their event
// gives. Where 401 is one of them the secret is wrong, and a token a surprise.
func (w *worker) ask(ctx context.Context, id, value, scope string, allowed map[int]string) string {
	asked := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}}
	issued := form{tokenIssued, want("token", id, id, map[string]any{"metadata.scope": scope})}
	failed := form{authFailed, want("token", id, id, map[string]any{"outcome": "failure"})}
	_, wrong := allowed[http.StatusUnauthorized]
	a := &action{began: time.Now()}
	t := w.send(context.WithoutCancel(ctx), request{
		service: "token", method: http.MethodPost, path: "/api/v1/token", body: asked,
		bearer: "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+value)),
	})
	a.note(t, t.result())
	defer w.ledger.add(a)
	reason, expected := allowed[t.status]
	switch {
	case t.result() == done:
		var answer struct {
			Token string `json:"access_token"`
		}
		if err := t.read(&answer); err != nil {
			w.ledger.surprise("%s: %v (request %s)", t, err, t.id)
		}
		if wrong {
			w.ledger.surprise("%s: a token for a wrong secret (request %s, client %s)", t, t.id, id)
		}
		token := claimsOf(answer.Token)
		issued.want["metadata.jti"] = token.ID
		issued.want["metadata.expiresAt"] = time.Unix(token.ExpiresAt, 0).UTC().Format(time.RFC3339)
		a.forms = []form{issued}
		return answer.Token
	case t.status == http.StatusUnauthorized, t.status == http.StatusForbidden:
		// A refusal of a client is an action of its own, and leaves its event.
		a.outcome = done
		if t.status == http.StatusUnauthorized {
			failed.want["actorId"] = nil
		}
		if expected {
			failed.want["metadata.reason"] = reason
		}
		a.forms = []form{failed}
	case wrong:
		failed.want["actorId"], failed.want["metadata.reason"] = nil, allowed[http.StatusUnauthorized]
		a.forms = []form{failed}
	default:
		delete(failed.want, "actorId") // it may be done at any moment, when the agent is suspended or has another secret
		a.forms = []form{issued, failed}
	}
	if t.status/100 == 4 && !expected {
		w.ledger.surprise("%s at %s (request %s, client %s)", t, time.Now().UTC().Format(clock), t.id, id)
	}
	return ""
}

// mistake is a client that shows a wrong secret.
func (w *worker) mistake(ctx context.Context, m *member) {
	wrong := "sk_live_" + fmt.Sprintf("%064x", w.random.Uint64())
	w.ask(ctx, m.id, wrong, agentScopes, map[int]string{http.StatusUnauthorized: "invalid_secret", http.StatusTooManyRequests: ""})
}

func (w *worker) introspect(ctx context.Context, m *member) {
	if len(m.tokens) == 0 {
		return
	}
	token := m.tokens[w.random.IntN(len(m.tokens))]
	w.take(ctx, step{
		form: form{tokenIntrospected, want("token", m.id, w.operator.ID, map[string]any{"metadata.jti": claimsOf(token).ID})},
		ask: request{
			service: "token", method: http.MethodPost, path: "/api/v1/token/introspect", bearer: w.bearer,
			body: url.Values{"token": {token}},
		},
		learn: func(t attempt) (map[string]any, error) {
			var answer struct {
				Active bool `json:"active"`
			}
			err := t.read(&answer)
			if !answer.Active {
				err = fmt.Errorf("the live token %s is not active", claimsOf(token).ID)
			}
			// Without an answer it may be looked at much later, by a replica that was frozen, when it is revoked.
			return map[string]any{"metadata.active": true}, err
		},
	})
}

func (w *worker) revokeToken(ctx context.Context, m *member) {
	if len(m.tokens) == 0 {
		return
	}
	token := m.tokens[0]
	m.tokens = m.tokens[1:]
	w.take(ctx, step{
		form:    form{tokenRevoked, want("token", m.id, w.operator.ID, map[string]any{"metadata.jti": claimsOf(token).ID})},
		repeats: true,
		ask: request{
			service: "token", method: http.MethodPost, path: "/api/v1/token/revoke", bearer: w.bearer,
			body: url.Values{"token": {token}},
		},
	})
}
