package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/sentryagent/agentidp/test/bench/internal/profiles"
	"github.com/sentryagent/agentidp/test/bench/internal/report"
	"github.com/sentryagent/agentidp/test/internal/load"
	"github.com/sentryagent/agentidp/test/internal/rig"
)

const (
	// crowdCost is bcrypt's work factor for the agents of warm measurements: warm is what comes after bcrypt, and ten
	// thousand agents at the service's own factor are ten minutes of it.
	crowdCost = 4
	// usualConnections is how many connections most is measured with.
	usualConnections = 32
	someAgents       = 100
)

// populate inserts the agents that tokens are measured with.
func (b *bench) populate(ctx context.Context) (err error) {
	count := 10_000
	if b.quick {
		count = 1_000
	}
	b.agents, err = b.rig.Seed(ctx, rig.Crowd{Name: "warm", Count: count, Cost: crowdCost})
	return err
}

func checkToken(status int, body []byte) error {
	if status != 200 || !bytes.Contains(body, []byte(`"access_token":"ey`)) {
		return fmt.Errorf("no token but %d %s", status, body)
	}
	return nil
}

func (b *bench) tokenRequests(clients []rig.Client) [][]byte {
	requests := make([][]byte, len(clients))
	for i, client := range clients {
		requests[i] = tokenRequest(b.rig.Public("token"), client, "")
	}
	return requests
}

// warm gets one token for each agent, so that the service knows all of them.
func (b *bench) warm(ctx context.Context, agents int) error {
	b.after = nil
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public("token"), Connections: 16, Requests: b.tokenRequests(b.agents[:agents]), Check: checkToken,
		Limit: int64(agents), Patience: 5 * time.Minute,
	})
	if err != nil {
		return err
	}
	result, err := running.Wait()
	b.answered[actionIssued] += result.Total
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	_, err = b.rig.Settle(ctx, settleWithin)
	return err
}

func (b *bench) length() time.Duration { return time.Duration(b.seconds * float64(time.Second)) }

func (b *bench) tokenTarget(agents int) target {
	return target{
		action: actionIssued, service: "token", requests: b.tokenRequests(b.agents[:agents]), check: checkToken,
		verify: b.verifyTokens, warmup: 500 * time.Millisecond, window: b.length(),
	}
}

// verifyTokens verifies tokens as a stranger does: by the published keys, with other people's libraries.
func (b *bench) verifyTokens(ctx context.Context, bodies [][]byte) error {
	document, err := b.rig.Get(ctx, b.rig.Issuer()+"/.well-known/jwks.json", "")
	if err != nil {
		return fmt.Errorf("get the keys: %w", err)
	}
	keys, err := keyfunc.NewJWKSetJSON(document)
	if err != nil {
		return fmt.Errorf("read the keys: %w", err)
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{b.mode.algorithm}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithIssuer(b.rig.Issuer()), jwt.WithAudience(b.rig.Issuer()), jwt.WithLeeway(5*time.Second))
	seen := map[string]bool{}
	for _, body := range bodies {
		var answer struct {
			Access string `json:"access_token"`
			Type   string `json:"token_type"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("read an answer: %w", err)
		}
		var claims jwt.MapClaims
		token, err := parser.ParseWithClaims(answer.Access, &claims, keys.Keyfunc)
		if err != nil {
			return fmt.Errorf("a token does not verify: %w", err)
		}
		id, _ := claims["jti"].(string)
		if token.Header["typ"] != "at+jwt" || answer.Type != "Bearer" || claims["scope"] != "agents:read" || id == "" || seen[id] {
			return fmt.Errorf("a token is not what it should be: %v %v", token.Header, claims)
		}
		seen[id] = true
	}
	if len(seen) == 0 {
		return errors.New("no token was kept to be verified")
	}
	return nil
}

// tokens measures warm tokens of one algorithm.
func (b *bench) tokens(ctx context.Context, algorithm string) error {
	if err := b.serve(ctx, algorithm, nil); err != nil {
		return err
	}
	return b.tokensWith(ctx, algorithm, false, []int{usualConnections, 1, 8, 128})
}

// tokensWith measures over few and many agents. The usual number of connections is measured several times.
func (b *bench) tokensWith(ctx context.Context, algorithm string, limits bool, connections []int) error {
	for _, agents := range []int{1, someAgents, len(b.agents)} {
		if b.options.agents > 0 && agents != b.options.agents {
			continue
		}
		if err := b.warm(ctx, agents); err != nil {
			return err
		}
		for _, conns := range connections {
			if b.connections > 0 && conns != b.connections {
				continue
			}
			rounds := 1
			if conns == usualConnections {
				rounds = b.rounds
			}
			c := report.Case{Kind: report.KindToken, Algorithm: algorithm, Connections: conns, Agents: agents, Limits: limits}
			if err := b.repeat(ctx, c, b.tokenTarget(agents), rounds); err != nil {
				return err
			}
		}
	}
	return nil
}

// repeat measures a case several times.
func (b *bench) repeat(ctx context.Context, c report.Case, t target, rounds int) error {
	for range rounds {
		m, err := b.measure(ctx, c, t)
		if err != nil {
			return err
		}
		b.results.Measurements = append(b.results.Measurements, m)
	}
	return nil
}

// profile takes a CPU profile of the token service.
func (b *bench) profile(ctx context.Context) error {
	if err := b.serve(ctx, "RS256", nil); err != nil {
		return err
	}
	if err := b.warm(ctx, 1); err != nil {
		return err
	}
	t := b.tokenTarget(1)
	var taken []byte
	t.during = func(ctx context.Context) (err error) {
		taken, err = b.rig.Profile(ctx, "token", max(2, int(3*b.seconds)))
		return err
	}
	c := report.Case{Kind: report.KindToken, Algorithm: "RS256", Connections: usualConnections, Agents: 1}
	if _, err := b.measure(ctx, c, t); err != nil {
		return err
	}
	split, err := profiles.Parse(taken)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.out, 0o750); err != nil {
		return err
	}
	file := b.stamp + ".token.pb.gz"
	b.results.Profile = &report.Profile{Case: c, Share: split.Share, Rest: split.Rest, File: file}
	return os.WriteFile(filepath.Join(b.out, file), taken, 0o600)
}

// crowd measures many agents for so long that every one of them is looked up again meanwhile, between two measurements
// of a single one.
func (b *bench) crowd(ctx context.Context) error {
	if err := b.serve(ctx, "RS256", nil); err != nil {
		return err
	}
	const remembered = 30 * time.Second // how long the token service remembers an agent
	one := b.tokenTarget(1)
	one.window = 3 * b.length()
	many := b.tokenTarget(len(b.agents))
	many.window = remembered
	if b.quick {
		many.window = one.window
	}
	if err := b.warm(ctx, len(b.agents)); err != nil {
		return err
	}
	for _, part := range []struct {
		agents int
		target target
	}{{1, one}, {len(b.agents), many}, {1, one}} {
		c := report.Case{Kind: report.KindCrowd, Algorithm: "RS256", Connections: usualConnections, Agents: part.agents}
		if err := b.repeat(ctx, c, part.target, 1); err != nil {
			return err
		}
	}
	return nil
}
