package main

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// agents is how many agents there are. A few have most of the events: the first
// about one in ten, the last one in some thousands.
const agents = 1000

// generator makes events, the same for the same seed.
type generator struct {
	random *rand.Rand
	agents [agents]string
}

func newGenerator(seed, part uint64) *generator {
	g := &generator{random: rand.New(rand.NewPCG(seed, part))} //nolint:gosec // no secret; it has to be repeatable
	for n := range g.agents {
		g.agents[n] = agentID(seed, n).String()
	}
	return g
}

// event is one of a generator.
type event struct {
	id              uuid.UUID
	at              time.Time
	agent           string
	action, outcome string
	service         string
	payload         []byte // already in canonical form
}

// agentID is the n-th agent of a seed, n below agents.
func agentID(seed uint64, n int) uuid.UUID {
	var name [16]byte
	binary.BigEndian.PutUint64(name[:], seed)
	binary.BigEndian.PutUint64(name[8:], uint64(n)) //nolint:gosec // not negative
	return uuid.NewSHA1(uuid.Nil, name[:])
}

// make makes the event of a moment, which is cut to microseconds.
func (g *generator) make(at time.Time) event {
	at = at.UTC().Truncate(time.Microsecond)
	share := g.random.Float64()
	e := event{at: at, agent: g.agents[int(agents*share*share*share)], action: "token.issued", outcome: "success", service: "token"}
	metadata := `{"scope":"agents:read resume:read"}`
	switch n := g.random.IntN(1000); {
	case n < 50:
		e.action, e.outcome, metadata = "auth.failed", "failure", `{"reason":"invalid_secret"}`
	case n < 250:
		e.action, metadata = "token.introspected", `{"active":true}`
	case n < 252:
		e.action, e.service, metadata = "agent.updated", "registry", `{"fields":["version"]}`
	case n < 253:
		e.action, e.service, metadata = "credential.rotated", "credentials", `{}`
	}
	binary.BigEndian.PutUint64(e.id[:8], uint64(at.UnixMilli())<<16|0x7000|g.random.Uint64()&0xfff)
	binary.BigEndian.PutUint64(e.id[8:], 1<<63|g.random.Uint64()>>2)
	e.payload = e.appendPayload(make([]byte, 0, 512), metadata, g.random.Uint32(), g.random.Uint64())
	return e
}

// appendPayload adds the event as JSON, its fields in the order of RFC 8785.
func (e event) appendPayload(dst []byte, metadata string, address uint32, request uint64) []byte {
	add := func(parts ...string) {
		for _, part := range parts {
			dst = append(dst, part...)
		}
	}
	add(`{"action":"`, e.action, `","actorId":"`, e.agent, `","agentId":"`, e.agent, `","eventId":"`, e.id.String(), `","ipAddress":"10`)
	for shift := 16; shift >= 0; shift -= 8 {
		dst = strconv.AppendUint(append(dst, '.'), uint64(address>>shift&0xff), 10)
	}
	add(`","metadata":`, metadata, `,"outcome":"`, e.outcome, `","requestId":"6f1c1c1e-6a53-4a5e-9d2e-`)
	dst = hex.AppendEncode(dst, binary.BigEndian.AppendUint64(nil, request)[2:])
	add(`","schemaVersion":1,"service":"`, e.service, `","timestamp":"`)
	dst = e.at.AppendFormat(dst, time.RFC3339Nano)
	add(`","userAgent":"python-requests/2.32.3"}`)
	return dst
}

// appendRow adds the event as a line of COPY's text format: what stands in it needs
// no escapes.
func (e event) appendRow(dst []byte, leaf int64) []byte {
	dst = append(append(dst, e.id.String()...), '\t')
	dst = append(e.at.AppendFormat(dst, time.RFC3339Nano), '\t')
	dst = strconv.AppendInt(dst, leaf, 10)
	for _, column := range []string{e.agent, e.agent, e.action, e.outcome, e.service} {
		dst = append(append(dst, '\t'), column...)
	}
	return append(append(append(dst, '\t'), e.payload...), '\n')
}

// columns are those of appendRow.
const columns = "(event_id, timestamp, leaf_index, agent_id, actor_id, action, outcome, service, payload)"
