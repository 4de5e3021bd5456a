package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/test/internal/load"
)

const (
	connections = 8
	// variants are how many different requests a measurement of lists sends in turn.
	variants = 64
	// variantsOnce are more than are sent in a measurement.
	variantsOnce = 20_000
	// warmup is long enough for each connection to plan each statement of a list: that opens all days, and takes 25 ms and more.
	warmup = 3 * time.Second
	// exportSlice is how long an export is read that is not read whole.
	exportSlice = 15 * time.Second
	// exportMost bounds one that is.
	exportMost = 30 * time.Minute
)

// request is a GET as bytes.
func (b *bench) request(path string, query url.Values) []byte {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", path, b.rig.Public("audit"), b.token)
}

// ok is an answer 200.
func ok(status int, body []byte) error {
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, body[:min(len(body), 500)])
	}
	return nil
}

// matches sees that the answers to the requests of a list have events: an empty one is quick, and no measurement.
type matches struct {
	list  list
	found atomic.Int64 // answers with events
}

// check takes an answer. Where neither an agent, an action nor a position is asked for, each has events.
func (m *matches) check(status int, body []byte) error {
	if err := ok(status, body); err != nil {
		return err
	}
	if bytes.Contains(body, []byte(`"eventId"`)) {
		m.found.Add(1)
	} else if l := m.list; !l.Agent && !l.Action && !l.Deep {
		return errEmpty
	}
	return nil
}

// err is about all of the answers. Some actions are rare and one never happens, and some agents have no event; but
// where no agent is asked for, most have events.
func (m *matches) err() error {
	if !m.list.Agent && m.found.Load() == 0 {
		return errEmpty
	}
	return nil
}

var errEmpty = errors.New("a list that must have events is empty")

// measure puts a load of requests on the audit service.
func (b *bench) measure(ctx context.Context, connections int, requests [][]byte, check func(status int, body []byte) error) (latency, error) {
	running, err := load.Start(ctx, load.Plan{
		Address: b.rig.Public("audit"), Connections: connections, Requests: requests, Check: check, Patience: 5 * time.Minute,
	})
	if err != nil {
		return latency{}, err
	}
	_ = idle.For(ctx, warmup)
	running.Measure()
	_ = idle.For(ctx, time.Duration(b.seconds*float64(time.Second)))
	running.Pause()
	result, err := running.Stop()
	return latency{
		Answered: result.Answered, PerSecond: result.PerSecond(),
		P50ms: milliseconds(result.Latencies.Percentile(50)), P99ms: milliseconds(result.Latencies.Percentile(99)),
		MaxMs: milliseconds(result.Latencies.Percentile(100)),
	}, err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// lists measures every combination of an agent, an action and a day, each on its
// first page and far behind; and agents once more, none of them asked for twice.
// Agents are of every size, and some have no event.
func (b *bench) lists(ctx context.Context) error {
	const masks = 8
	kinds := make([]list, 0, 2*masks+1)
	for mask := range masks {
		c := list{Agent: mask&1 != 0, Action: mask&2 != 0, Day: mask&4 != 0}
		deep := c
		deep.Deep = true
		kinds = append(kinds, c, deep)
	}
	kinds = append(kinds, list{Agent: true, Once: true})
	random := newGenerator(b.seed, 2<<32).random
	for _, c := range kinds {
		requests := make([][]byte, variants)
		if c.Once {
			requests = make([][]byte, variantsOnce)
		}
		for i := range requests {
			requests[i] = b.request("/api/v1/audit", b.listQuery(c, random))
		}
		var err error
		answers := &matches{list: c}
		if c.latency, err = b.measure(ctx, connections, requests, answers.check); err == nil {
			err = answers.err()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
		b.log("   %s: %.0f per second, p50 %.1f ms, p99 %.1f ms", c.name(), c.PerSecond, c.P50ms, c.P99ms)
		b.results.Lists = append(b.results.Lists, c)
	}
	return nil
}

func (b *bench) listQuery(c list, random *rand.Rand) url.Values {
	query := url.Values{}
	at := b.filled.first.Add(time.Duration(random.Int64N(int64(b.days))) * day)
	if c.Agent {
		query.Set("agentId", agentID(b.seed, random.IntN(agents+10)).String())
	}
	if c.Action {
		actions := []string{"token.issued", "token.introspected", "auth.failed", "agent.updated", "credential.rotated", "agent.decommissioned"}
		query.Set("action", actions[random.IntN(len(actions))])
	}
	if c.Once { // a beginning of its own, in the oldest third
		at = b.filled.first.Add(time.Duration(random.Int64N(int64(b.days)*int64(day)/3 + 1)))
		query.Set("fromDate", at.Format(time.RFC3339))
	}
	if c.Day {
		query.Set("fromDate", at.Format(time.DateOnly))
		query.Set("toDate", at.Format(time.DateOnly))
	}
	if c.Deep {
		if !c.Day { // behind half of the trail and more
			at = b.filled.first.Add(time.Duration(random.Int64N(int64(b.days)*int64(day)/2 + 1)))
		}
		after := paging.Position{Time: at.Add(time.Duration(random.Int64N(int64(day)))).Truncate(time.Microsecond), ID: uuid.Max}
		behind := paging.Listing[int]{Total: paging.Total{Items: 1}, Next: &after}
		query.Set("cursor", httpx.NewList(httpx.Page{Number: 1000}, behind, strconv.Itoa).NextCursor)
	}
	return query
}

// proofs measures one event, and its proof: asked for at once, and one after the other.
func (b *bench) proofs(ctx context.Context) error {
	for _, one := range []struct {
		path        string
		connections int
		into        **latency
	}{{"", connections, &b.results.Get}, {"/proof", connections, &b.results.ProofCrowd}, {"/proof", 1, &b.results.Proof}} {
		requests := make([][]byte, len(b.filled.ids))
		for i, id := range b.filled.ids {
			requests[i] = b.request("/api/v1/audit/"+id.String()+one.path, nil)
		}
		found, err := b.measure(ctx, one.connections, requests, ok)
		if err != nil {
			return err
		}
		b.log("   %.0f per second, p50 %.1f ms, p99 %.1f ms", found.PerSecond, found.P50ms, found.P99ms)
		*one.into = &found
	}
	return nil
}

// exports measures how fast exports are written, and what memory that takes.
func (b *bench) exports(ctx context.Context) error {
	agent := url.Values{"agentId": {agentID(b.seed, agents/2).String()}}
	for _, x := range []struct {
		name  string
		query url.Values
		most  time.Duration
	}{
		{"all", nil, exportMost},
		{"all, with proofs", url.Values{"proofs": {"true"}}, exportSlice},
		{"all, OCSF", url.Values{"format": {"ocsf"}}, exportSlice},
		{"one agent", agent, exportMost},
	} {
		before, err := b.rig.Memory()
		if err != nil {
			return err
		}
		found, err := b.export(ctx, x.query, x.most)
		if err != nil {
			return err
		}
		after, err := b.rig.Memory()
		if err != nil {
			return err
		}
		found.Name, found.MemoryBefore, found.MemoryPeak = x.name, before["audit"].RSS, after["audit"].Peak
		b.log("   %s: %d lines in %.1f s, audit had %d MiB, and %d at its peak", x.name, found.Lines, found.Seconds, found.MemoryBefore>>20, found.MemoryPeak>>20)
		b.results.Exports = append(b.results.Exports, found)
	}
	return nil
}

// openExport asks for an export; the body is to be closed.
func (b *bench) openExport(ctx context.Context, query url.Values) (io.ReadCloser, error) {
	address := "http://" + b.rig.Public("audit") + "/api/v1/audit/export?" + query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+b.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("export: %s", response.Status)
	}
	return response.Body, nil
}

// export reads an export to its end, but no longer than most.
func (b *bench) export(ctx context.Context, query url.Values, most time.Duration) (exported, error) {
	reading, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	begin := time.Now()
	export, err := b.openExport(reading, query)
	if err != nil {
		return exported{}, err
	}
	defer func() { _ = export.Close() }()
	var found exported
	buffer := make([]byte, 64<<10)
	body := bufio.NewReader(export)
	for {
		n, err := body.Read(buffer)
		found.Bytes += int64(n)
		found.Lines += int64(bytes.Count(buffer[:n], []byte{'\n'}))
		if errors.Is(err, io.EOF) {
			found.Whole = true
			break
		}
		if err != nil {
			if reading.Err() == nil || ctx.Err() != nil {
				return found, fmt.Errorf("export: %w", err)
			}
			break // long enough
		}
	}
	found.Seconds = time.Since(begin).Seconds()
	return found, nil
}
