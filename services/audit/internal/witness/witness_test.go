package witness_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/witness"
)

// growing is a log in memory.
type growing struct {
	t   *testing.T
	key testkit.LogKey
	mu  sync.Mutex
	testkit.StoredHashes

	size   int64
	past   string // leaves are others in another one
	signed func() // after a head was given, if set
}

func (g *growing) add(leaves int) {
	g.t.Helper()
	for range leaves {
		hashes, err := tlog.StoredHashes(g.size, fmt.Append(nil, g.size, g.past, g.key.Public), g)
		require.NoError(g.t, err)
		g.StoredHashes = append(g.StoredHashes, hashes...)
		g.size++
	}
}

// restart has the log begin again, in another past.
func (g *growing) restart(leaves int) {
	g.t.Helper()
	g.size, g.StoredHashes, g.past = 0, nil, g.past+"another"
	g.add(leaves)
}

func (g *growing) Newest(context.Context) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	root, err := tlog.TreeHash(g.size, g)
	if err != nil {
		return nil, err
	}
	head := auditlog.Checkpoint{Origin: g.key.Signer.Name(), Size: g.size, Root: root}
	if g.signed != nil {
		g.signed()
	}
	return auditlog.Sign(head, g.key.Signer)
}

func (g *growing) Consistency(_ context.Context, from int64, to *int64) (auditlog.Consistency, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if from == 0 || from == *to {
		return auditlog.Consistency{From: from, To: *to}, nil
	}
	hashes, err := tlog.ProveTree(*to, from, g)
	return auditlog.Consistency{From: from, To: *to, Hashes: hashes}, err
}

// stranger is somebody's witness, as the standard has it.
type stranger struct {
	*httptest.Server
	t        *testing.T
	key      string
	cosigner *auditlog.Cosigner
	log      note.Verifier
	mu       sync.Mutex
	last     auditlog.Checkpoint
	asked    int
	answer   func(w http.ResponseWriter) bool // says something else, if it wants to
}

func newStranger(t *testing.T, name string, log note.Verifier) *stranger {
	t.Helper()
	secret, public, err := auditlog.GenerateWitnessKey(rand.Reader, name)
	require.NoError(t, err)
	cosigner, err := auditlog.NewCosigner(secret, time.Now)
	require.NoError(t, err)
	s := &stranger{t: t, key: public, cosigner: cosigner, log: log}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *stranger) peer() witness.Peer {
	s.t.Helper()
	peer, err := witness.ParsePeer(s.key + "@" + s.URL + "/")
	require.NoError(s.t, err)
	return peer
}

func (s *stranger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.answer != nil && s.answer(w) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/add-checkpoint" {
		http.Error(w, "what?", http.StatusBadRequest)
		return
	}
	request, err := auditlog.ParseAddCheckpoint(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	next, opened, err := auditlog.Open(request.Checkpoint, s.log)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusForbidden)
	case request.Old != s.last.Size:
		w.Header().Set("Content-Type", auditlog.SizeType)
		w.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprintln(w, s.last.Size)
	case request.Old == next.Size && next.Root != s.last.Root:
		w.WriteHeader(http.StatusConflict)
	case request.Old > 0 && request.Old < next.Size && tlog.CheckTree(request.Proof, next.Size, next.Root, s.last.Size, s.last.Root) != nil:
		http.Error(w, "no", http.StatusUnprocessableEntity)
	default:
		s.last = next
		line, _ := auditlog.SignatureLine(opened.Text, s.cosigner)
		_, _ = w.Write(line)
	}
}

// memory is a Store.
type memory struct {
	mu     sync.Mutex
	holder uuid.UUID
	held   bool // by a replica that is alive
	seen   map[string]witness.Seen
	board  witness.Published
	fails  error
}

func (m *memory) Release(_ context.Context, holder uuid.UUID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.holder == holder {
		m.holder = uuid.Nil
	}
	return nil
}

func (m *memory) Hold(_ context.Context, holder uuid.UUID, _ time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.holder == uuid.Nil {
		m.holder = holder
	}
	m.held = true
	return m.holder == holder, m.fails
}

func (m *memory) Seen(context.Context) (map[string]witness.Seen, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[string]witness.Seen{}
	for key, value := range m.seen {
		seen[key] = value
	}
	return seen, nil
}

func (m *memory) Saw(_ context.Context, key string, seen witness.Seen) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[key] = seen
	return nil
}

func (m *memory) Publish(_ context.Context, size int64, signed []byte) error {
	return m.publish(size, signed, func() bool { return m.board.Size <= size })
}

func (m *memory) PublishBare(_ context.Context, size int64, signed []byte) error {
	return m.publish(size, signed, func() bool { return m.board.Size < size })
}

func (m *memory) Begin(_ context.Context, size int64, signed []byte) error {
	return m.publish(size, signed, func() bool { return m.board.Size < size && (!m.held || m.board.Size == 0) })
}

func (m *memory) publish(size int64, signed []byte, may func() bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if may() {
		m.board = witness.Published{Size: size, Signed: signed}
	}
	return m.fails
}

func (m *memory) Published(context.Context) (witness.Published, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.board, m.fails
}

// bench is a log, a store, a clock and a client.
type bench struct {
	t      *testing.T
	log    *growing
	store  *memory
	clock  *testkit.Clock
	quorum int
	peers  []witness.Peer
	tel    *telemetry.Telemetry // of the client
	client *witness.Client
}

func setUp(t *testing.T, quorum int, names ...string) (*bench, []*stranger) {
	t.Helper()
	b := &bench{
		t: t, log: &growing{t: t, key: testkit.AuditLogKey(t)}, clock: testkit.NewClock(time.Unix(1_800_000_000, 0)),
		quorum: quorum, store: &memory{seen: map[string]witness.Seen{}},
	}
	strangers := make([]*stranger, len(names))
	for i, name := range names {
		strangers[i] = newStranger(t, name, b.log.key.Verifier)
		b.peers = append(b.peers, strangers[i].peer())
	}
	b.client = b.replica()
	return b, strangers
}

// replica is another one of the service, and the one that is counted from now on.
func (b *bench) replica() *witness.Client {
	b.t.Helper()
	b.tel = telemetry.Discard("audit")
	client, err := witness.New(witness.Config{
		Log: b.log, Store: b.store, Verifier: b.log.key.Verifier, Peers: b.peers, Quorum: b.quorum, Telemetry: b.tel, Clock: b.clock.Now,
	})
	require.NoError(b.t, err)
	return client
}

// restart begins the service anew.
func (b *bench) restart() { b.client, b.store.holder = b.replica(), uuid.Nil }

// round has the witnesses asked, and waits for what they answer.
func (b *bench) round() {
	b.t.Helper()
	b.ask()
	for b.take() {
	}
}

func (b *bench) ask() {
	b.t.Helper()
	require.NoError(b.t, b.client.Round(b.t.Context()))
}

// take takes one answer, if any is to come.
func (b *bench) take() bool {
	b.t.Helper()
	taken, err := b.client.Take(b.t.Context())
	require.NoError(b.t, err)
	return taken
}

// signers is who signed the checkpoint that is published, and of how many leaves it is.
func (b *bench) signers(strangers ...*stranger) (size int64, names []string) {
	b.t.Helper()
	cosigned, signed, ok, err := b.client.Published(b.t.Context())
	require.NoError(b.t, err)
	if !ok {
		return 0, nil
	}
	verifiers := make([]note.Verifier, len(strangers))
	for i, s := range strangers {
		verifiers[i] = s.peer().Verifier
	}
	c, opened, err := auditlog.Open(signed, b.log.key.Verifier, verifiers...)
	require.NoError(b.t, err)
	require.Equal(b.t, cosigned, c)
	for _, sig := range opened.Sigs[1:] {
		names = append(names, sig.Name)
	}
	return c.Size, names
}

func (b *bench) count(name, result string) float64 {
	b.t.Helper()
	families, err := b.tel.Metrics.Registry.Gather()
	require.NoError(b.t, err)
	for _, family := range families {
		if family.GetName() != "agentidp_audit_witness_answers_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == result && m.GetLabel()[1].GetValue() == name {
				return m.GetCounter().GetValue()
			}
		}
	}
	require.FailNow(b.t, "no such counter")
	return 0
}

func TestWitnessesSignWhatTheLogBecomes(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example", "two.example")
	b.round()
	require.Zero(t, s[0].asked, "a log without leaves is shown to nobody")

	for _, step := range []int{1, 2, 300, 1} {
		b.log.add(step)
		b.round()
		size, names := b.signers(s...)
		require.Equal(t, b.log.size, size)
		require.ElementsMatch(t, []string{"one.example", "two.example"}, names)
	}
	asked := s[0].asked
	b.round()
	require.Equal(t, asked, s[0].asked, "what was signed is not shown again")
	require.EqualValues(t, 4, b.count("one.example", "signed"))
}

func TestAWitnessThatIsAwayDelaysNobody(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example", "two.example")
	s[1].answer = func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusBadGateway); return true }
	b.log.add(5)
	b.round()
	size, names := b.signers(s...)
	require.EqualValues(t, 5, size)
	require.Equal(t, []string{"one.example"}, names)
	require.EqualValues(t, 1, b.count("two.example", "away"))

	b.log.add(5)
	b.round()
	require.Equal(t, 1, s[1].asked, "it is left alone for a while")
	s[1].answer = nil
	b.clock.Advance(2 * time.Second)
	b.log.add(5)
	b.round()
	size, names = b.signers(s...)
	require.EqualValues(t, 15, size)
	require.Len(t, names, 2)

	s[0].Close()
	s[1].Close()
	b.log.add(5)
	b.round()
	size, _ = b.signers(s...)
	require.EqualValues(t, 15, size)
	b.clock.Advance(5 * time.Second)
	b.round()
	size, names = b.signers(s...)
	require.EqualValues(t, 20, size, "after a few seconds the head is better than the cosigned one")
	require.Empty(t, names)
	b.log.add(5)
	b.round()
	size, _ = b.signers(s...)
	require.EqualValues(t, 25, size, "and while nobody signs every further head is")
}

// What is given out becomes no smaller: witnesses come and go, replicas take over from
// each other and start anew, and everybody who asks meets any of them.
// hold has a witness answer only when it is released.
func (s *stranger) hold() (release func()) {
	until := make(chan struct{})
	release = sync.OnceFunc(func() { close(until) })
	s.t.Cleanup(release)
	s.answer = func(http.ResponseWriter) bool { <-until; return false }
	return release
}

func TestASlowWitnessDelaysNobody(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example", "two.example")
	release := s[1].hold()
	for want := range int64(3) {
		b.log.add(1)
		b.ask()
		require.True(t, b.take())
		size, names := b.signers(s...)
		require.Equal(t, want+1, size)
		require.Equal(t, []string{"one.example"}, names)
	}
	release()
	require.True(t, b.take())
	require.EqualValues(t, 1, b.count("two.example", "signed"))
	require.EqualValues(t, 1, b.store.seen[s[1].key].Size, "what it was shown in the first round")
	size, _ := b.signers(s...)
	require.EqualValues(t, 3, size, "and moves nothing back")
	require.Equal(t, 1, s[1].asked, "one thing at a time")

	b.log.add(1)
	b.round()
	size, names := b.signers(s...)
	require.EqualValues(t, 4, size)
	require.Len(t, names, 2)
}

// TestASlowWitnessCountsForWhatItWasShown has the log grow while a witness that is needed ponders: what the others
// signed together with it is published, and patience counts from there.
func TestASlowWitnessCountsForWhatItWasShown(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 2, "one.example", "two.example")
	release := s[1].hold()
	b.log.add(1)
	b.ask()
	require.True(t, b.take())
	b.clock.Advance(3 * time.Second)
	b.log.add(1)
	b.ask()
	require.True(t, b.take())
	_, names := b.signers(s...)
	require.Empty(t, names)
	release()
	require.True(t, b.take())
	size, names := b.signers(s...)
	require.EqualValues(t, 1, size)
	require.Len(t, names, 2)

	s[0].Close()
	s[1].Close()
	b.clock.Advance(4 * time.Second)
	b.round()
	size, _ = b.signers(s...)
	require.EqualValues(t, 1, size, "the second leaf waits for four seconds, not for seven")
	b.clock.Advance(time.Second)
	b.round()
	size, names = b.signers(s...)
	require.EqualValues(t, 2, size)
	require.Empty(t, names)
}

func TestWhatWasSignedOfAnotherPastDoesNotCount(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example")
	b.log.add(5)
	b.round()
	was := b.store.board
	b.log.restart(5)
	b.restart()
	b.round()
	require.EqualValues(t, 1, b.count("one.example", "forked"), "it is asked")
	require.Equal(t, was, b.store.board, "its signature of the other past is put under nothing")
	b.clock.Advance(5 * time.Second)
	b.log.add(1)
	b.round()
	size, names := b.signers(s...)
	require.EqualValues(t, 6, size)
	require.Empty(t, names)
}

func TestAWitnessThatBeganAnewIsAskedHowFarItIs(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example")
	b.log.add(9)
	b.round()
	b.log.restart(5) // a backup, and the witness's keeper was told
	b.store.board = witness.Published{}
	s[0].last = auditlog.Checkpoint{}
	b.round()
	require.Zero(t, b.count("one.example", "forked"))
	size, names := b.signers(s...)
	require.EqualValues(t, 5, size)
	require.Len(t, names, 1)
}

func TestThePublishedCheckpointOnlyMovesForward(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 2, "one.example", "two.example")
	random := mathrand.New(mathrand.NewPCG(4, 2))
	replicas := []*witness.Client{b.replica(), b.replica()}
	least, bare, cosigned := int64(0), 0, 0
	look := func() {
		for _, replica := range replicas {
			c, signed, ok, err := replica.Published(t.Context())
			require.NoError(t, err)
			require.Equal(t, b.log.size > 0, ok)
			require.GreaterOrEqual(t, c.Size, least, "what is given out became smaller")
			require.LessOrEqual(t, c.Size, b.log.size)
			least = c.Size
			if strings.Count(string(signed), "\n— ") == 3 {
				cosigned++
			} else {
				bare++
			}
		}
	}
	for range 400 {
		b.log.add(random.IntN(3))
		switch i := random.IntN(2); random.IntN(8) {
		case 0:
			s[i].answer = func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusBadGateway); return true }
		case 1:
			s[i].answer = nil
		case 2: // a crash, and the lease runs out
			b.store.mu.Lock()
			b.store.holder, b.store.held = uuid.Nil, false
			b.store.mu.Unlock()
			replicas[i] = b.replica()
		}
		look()
		b.client = replicas[random.IntN(2)]
		b.round()
		look()
		b.clock.Advance(time.Second)
	}
	require.NotZero(t, bare)
	require.NotZero(t, cosigned)
	b.clock.Advance(time.Minute)
	for range 10 {
		for _, b.client = range replicas {
			b.round()
		}
		b.clock.Advance(time.Second)
	}
	look()
	require.Equal(t, b.log.size, least, "and comes to the newest head")
}

func TestALogThatHadNoWitnessesBeginsWhereItWas(t *testing.T) {
	t.Parallel()
	b, _ := setUp(t, 1, "one.example")
	b.log.add(3)
	b.round()
	b.store.held = false // the setting was taken back
	b.log.add(4)
	c, _, ok, err := b.replica().Published(t.Context())
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 7, c.Size, "heads up to here were given out")
}

func TestWhatTheLogsKeyDidNotSignIsNotPublished(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example")
	b.log.add(3)
	b.round()
	other := &growing{t: t, key: testkit.AuditLogKey(t)}
	other.add(3)
	signed, err := other.Newest(t.Context())
	require.NoError(t, err)
	for name, published := range map[string]witness.Published{
		"of a key of before": {Size: 3, Signed: signed},
		"of another size":    {Size: 4, Signed: b.store.board.Signed},
		"nothing":            {},
	} {
		b.store.board = published
		size, _ := b.signers(s...)
		require.Zero(t, size, name)
	}
	b.store.fails = errors.New("away")
	_, _, _, err = b.client.Published(t.Context())
	require.Error(t, err)
}

func TestAQuorumIsWaitedFor(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 2, "one.example", "two.example")
	s[1].answer = func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusTooManyRequests); return true }
	b.log.add(5)
	b.round()
	_, names := b.signers(s...)
	require.Empty(t, names)
	s[1].answer = nil
	b.clock.Advance(2 * time.Second)
	b.round()
	size, names := b.signers(s...)
	require.EqualValues(t, 5, size)
	require.Len(t, names, 2, "the signature of before counts")
}

func TestAWitnessThatIsElsewhereIsMet(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example")
	b.log.add(20)
	b.round()
	b.store.seen = map[string]witness.Seen{} // our memory of it is lost
	b.log.add(20)
	b.round()
	size, _ := b.signers(s...)
	require.EqualValues(t, 40, size)

	s[0].last = auditlog.Checkpoint{} // its memory is lost
	b.log.add(20)
	b.round()
	size, _ = b.signers(s...)
	require.EqualValues(t, 60, size)
}

func TestAWitnessMayWriteItsTypeOtherwise(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example")
	b.log.add(20)
	b.round()
	b.store.seen = map[string]witness.Seen{} // our memory of it is lost
	b.log.add(20)
	told := false
	s[0].answer = func(w http.ResponseWriter) bool {
		if told {
			return false
		}
		told = true
		w.Header().Set("Content-Type", strings.ToUpper(auditlog.SizeType)+"; charset=utf-8")
		w.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprintln(w, 20)
		return true
	}
	b.round()
	size, _ := b.signers(s...)
	require.EqualValues(t, 40, size)
	require.Zero(t, b.count("one.example", "forked"))
}

// TestAReplicaThatIsOutpacedSaysNothing has another replica show the witness a newer head while this one has the old one
// in its hands.
func TestAReplicaThatIsOutpacedSaysNothing(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"told by the store": true, "told by the witness": false} {
		b, s := setUp(t, 1, "one.example")
		b.log.add(5)
		b.round()
		b.log.signed = func() {
			b.log.signed = nil
			b.log.add(5)
			root, err := tlog.TreeHash(b.log.size, b.log)
			require.NoError(t, err)
			s[0].last = auditlog.Checkpoint{Size: b.log.size, Root: root}
			if known {
				b.store.seen[s[0].key] = witness.Seen{Size: b.log.size, Line: []byte("— of the other replica\n")}
			}
		}
		b.log.add(2)
		b.round()
		require.EqualValues(t, 12, s[0].last.Size, name)
		require.Zero(t, b.count("one.example", "forked"), name)
		require.Zero(t, b.count("one.example", "away"), name)
		b.log.add(1)
		b.round()
		size, _ := b.signers(s...)
		require.EqualValues(t, 13, size, "%s: nor is the witness left alone for it", name)
	}
}

func TestAPastThatAWitnessDoesNotKnowIsLoud(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(b *bench, s *stranger){
		"another past": func(b *bench, s *stranger) { s.last.Root[0] ^= 1; b.log.add(5) },
		"a backup":     func(_ *bench, s *stranger) { s.last.Size = 1000 },
		"a backup, and it is known how far the witness was": func(b *bench, s *stranger) {
			b.log.add(4)
			b.round()
			b.log.restart(5)
		},
		"a size that is the one it was shown": func(b *bench, s *stranger) {
			b.log.add(5)
			s.answer = func(w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", auditlog.SizeType+"; charset=utf-8")
				w.WriteHeader(http.StatusConflict)
				_, _ = fmt.Fprintln(w, 5)
				return true
			}
		},
		"another root of the same size": func(_ *bench, s *stranger) {
			s.answer = func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusConflict); return true }
		},
	} {
		b, s := setUp(t, 1, "one.example")
		b.log.add(5)
		b.round()
		happens(b, s[0])
		b.store.seen[s[0].key] = witness.Seen{Size: b.store.seen[s[0].key].Size} // the signature itself is lost
		b.restart()
		b.round()
		require.EqualValues(t, 1, b.count("one.example", "forked"), name)
	}
}

func TestOnlyTheWitnessItselfSigns(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example")
	other := newStranger(t, "one.example", b.log.key.Verifier)
	s[0].answer = func(w http.ResponseWriter) bool {
		signed, _ := b.log.Newest(t.Context())
		text, _, _ := strings.Cut(string(signed), "\n\n")
		line, _ := auditlog.SignatureLine(text+"\n", other.cosigner)
		_, _ = w.Write(line)
		return true
	}
	b.log.add(5)
	b.round()
	_, names := b.signers(s...)
	require.Empty(t, names)
	require.EqualValues(t, 1, b.count("one.example", "away"))
}

func TestOneReplicaTalksToTheWitnesses(t *testing.T) {
	t.Parallel()
	b, s := setUp(t, 1, "one.example")
	b.store.holder = uuid.New()
	b.log.add(5)
	b.round()
	require.Zero(t, s[0].asked)
	b.store.fails = errors.New("away")
	require.Error(t, b.client.Round(t.Context()))
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{nil, {"one.example"}} {
		b, s := setUp(t, 1, names...)
		b.log.add(1)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.client.Run(ctx) }()
		for _, stranger := range s {
			require.Eventually(t, func() bool { stranger.mu.Lock(); defer stranger.mu.Unlock(); return stranger.last.Size == 1 },
				30*time.Second, time.Millisecond)
		}
		stop()
		require.NoError(t, <-ended)
		require.Equal(t, uuid.Nil, b.store.holder, "the turn is given back")
	}
}

func TestWitnessesAreGivenAsKeyAndURL(t *testing.T) {
	t.Parallel()
	s := newStranger(t, "one.example/w@x", nil)
	require.Equal(t, "one.example/w@x", s.peer().Verifier.Name())
	require.Equal(t, s.URL, s.peer().URL)
	for name, text := range map[string]string{
		"nothing":         "",
		"no URL":          s.key,
		"no key":          "@https://x",
		"another scheme":  s.key + "@ftp://x",
		"no host":         s.key + "@https://",
		"a query":         s.key + "@https://x?a",
		"a key of a log":  "x+00000000+AAAA@https://x",
		"a URL that ends": s.key + "@https://[::1",
	} {
		_, err := witness.ParsePeer(text)
		require.Error(t, err, name)
	}
}
