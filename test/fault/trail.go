package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/idle"
)

const (
	// settleFor is how long everything may need to come to rest once all faults are healed: a relay that was killed holds
	// its rows for 15 s, a consumer its messages for 10 s.
	settleFor = 2 * time.Minute
	// restFor is how long nothing may wait anywhere before all is said to be at rest.
	restFor = 3 * time.Second
	pageOf  = 100
)

// settle waits until nothing waits any more, in no outbox, stream or consumer, and all that is stored went onward.
func (r *run) settle(ctx context.Context) error {
	deadline := time.Now().Add(settleFor)
	var rests time.Time
	for {
		waits, err := r.waiting(ctx)
		switch {
		case err != nil || waits != "":
			rests = time.Time{}
		case rests.IsZero():
			rests = time.Now()
		case time.Since(rests) > restFor:
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("after %s there still waits: %s", settleFor, waits), err)
		}
		if idle.For(ctx, 100*time.Millisecond) != nil {
			return ctx.Err()
		}
	}
}

// waiting names what is on its way, "" for nothing.
func (r *run) waiting(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	waits := ""
	for _, schema := range []string{"token", "registry", "credentials"} {
		var rows int64
		sql := "SELECT count(*) FROM " + pgx.Identifier{schema, "outbox"}.Sanitize()
		if err := r.rig.DB().QueryRow(ctx, sql).Scan(&rows); err != nil {
			return "", err
		}
		if rows > 0 {
			waits += fmt.Sprintf(" %d rows in %s.outbox", rows, schema)
		}
	}
	messages, err := r.rig.Waiting(ctx)
	if err != nil {
		return "", err
	}
	if messages > 0 {
		waits += fmt.Sprintf(" %d messages in the stream AUDIT", messages)
	}
	leaves, err := r.behind(ctx)
	if err != nil {
		return "", err
	}
	if leaves != 0 {
		waits += fmt.Sprintf(" %d leaves for the stream %s", leaves, onwardStream)
	}
	lifecycle, err := r.rig.Stream(ctx, "LIFECYCLE")
	if err != nil {
		return "", err
	}
	consumers := lifecycle.ListConsumers(ctx)
	held := 0
	for info := range consumers.Info() {
		held++
		if left := info.NumPending + uint64(info.NumAckPending); left > 0 { // #nosec G115 -- not negative
			waits += fmt.Sprintf(" %d messages for the consumer %s", left, info.Name)
		}
	}
	if held == 0 {
		waits += " the consumers of LIFECYCLE, which are not back"
	}
	return waits, consumers.Err()
}

// stored reads the whole trail from the database.
func (r *run) stored(ctx context.Context) ([]event, error) {
	rows, err := r.rig.DB().Query(ctx, "SELECT payload::text FROM audit.events")
	if err != nil {
		return nil, fmt.Errorf("read the events: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (event, error) {
		var payload []byte
		if err := row.Scan(&payload); err != nil {
			return event{}, err
		}
		return readEvent(payload)
	})
}

// shown reads the whole trail as a client does, page by page.
func (r *run) shown(ctx context.Context, address, bearer string) ([]event, error) {
	var all []event
	for cursor := ""; ; {
		query := url.Values{"limit": {fmt.Sprint(pageOf)}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		answer, err := r.rig.Get(ctx, "http://"+address+"/api/v1/audit?"+query.Encode(), bearer)
		if err != nil {
			return nil, err
		}
		var page struct {
			Data []json.RawMessage `json:"data"`
			Next string            `json:"nextCursor"`
		}
		if err := json.Unmarshal(answer, &page); err != nil {
			return nil, fmt.Errorf("read a page of the trail: %w", err)
		}
		for _, one := range page.Data {
			e, err := readEvent(one)
			if err != nil {
				return nil, err
			}
			all = append(all, e)
		}
		if cursor = page.Next; cursor == "" {
			return all, nil
		}
	}
}

// state reads what the services hold.
func (r *run) state(ctx context.Context) (state, error) {
	s := state{agents: map[string]agentState{}, credentials: map[string]credentialState{}, revoked: map[string]bool{}}
	var id string
	var a agentState
	var c credentialState
	for _, part := range []struct {
		sql  string
		into []any
		keep func()
	}{
		{"SELECT agent_id::text, revision, status FROM registry.agents", []any{&id, &a.revision, &a.status}, func() { s.agents[id] = a }},
		{
			"SELECT credential_id::text, agent_id::text, status, rotated_at FROM credentials.credentials",
			[]any{&id, &c.agent, &c.status, &c.rotated}, func() { s.credentials[id] = c },
		},
		{"SELECT jti::text FROM token.revocations", []any{&id}, func() { s.revoked[id] = true }},
	} {
		rows, err := r.rig.DB().Query(ctx, part.sql)
		if err != nil {
			return s, fmt.Errorf("read the state: %w", err)
		}
		if _, err := pgx.ForEachRow(rows, part.into, func() error { part.keep(); return nil }); err != nil {
			return s, fmt.Errorf("read the state: %w", err)
		}
	}
	return s, nil
}

// auditor is a token to read the trail with; it is asked for like all others, so that the ledger knows of it.
func (r *run) auditor(ctx context.Context) (string, error) {
	s := &sender{http: http.DefaultClient, replicas: r.replicas("token"), random: newRandom(r.seed, 0)}
	w := &worker{sender: s, operator: r.rig.Operator(), ledger: &r.ledger}
	token := w.fetch(ctx, w.operator.ID, w.operator.Secret, operatorScopes)
	if token == "" {
		return "", ctx.Err()
	}
	return token, nil
}
