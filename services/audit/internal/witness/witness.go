// Package witness shows the checkpoints of the audit log to witnesses, programs of
// others that sign a checkpoint if it goes on from the one they signed last (C2SP
// tlog-witness), and publishes the checkpoint with their signatures (cosignature/v1):
// the one that is given out, which only moves forward. It must hold up nothing: a
// witness that is slow, away or wrong costs its own signature and no event and no
// other witness anything, and the published checkpoint is never far behind the log.
package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	// interval is how often the witnesses are asked while the log grows.
	interval = time.Second
	// askFor bounds the wait for one witness.
	askFor = 3 * time.Second
	// lease is how long a replica talks to the witnesses before another one may.
	lease = 15 * time.Second
	// releaseFor bounds how long the end of a replica waits to give its turn back.
	releaseFor = time.Second

	// patience is how long enough signatures are waited for before the head is
	// published without them.
	patience = 5 * time.Second

	firstPause = time.Second
	lastPause  = time.Minute
)

// Log is what witnesses are shown.
type Log interface {
	// Newest is the signed note of the newest head.
	Newest(ctx context.Context) ([]byte, error)
	// Consistency shows that the tree of from leaves is the beginning of that of to.
	Consistency(ctx context.Context, from int64, to *int64) (auditlog.Consistency, error)
}

// Seen is what a witness signed last: of how many leaves, and its signature line. That
// may have been another past of the log, or the log under another name.
type Seen struct {
	Size int64
	Line []byte
}

// Published is the checkpoint that is given out, with or without signatures of
// witnesses.
type Published struct {
	Size   int64
	Signed []byte // the note; empty before the first
}

// Store keeps what witnesses signed.
type Store interface {
	// Hold makes holder the one replica that talks to witnesses, for two thirds of
	// lease at least, and tells whether it is.
	Hold(ctx context.Context, holder uuid.UUID, lease time.Duration) (bool, error)
	// Release ends that, if it is.
	Release(ctx context.Context, holder uuid.UUID) error
	// Seen is what each witness signed last, by its key.
	Seen(ctx context.Context) (map[string]Seen, error)
	// Saw keeps what a witness signed, unless it signed more leaves before, and the log
	// has those.
	Saw(ctx context.Context, key string, seen Seen) error
	// Publish moves the published checkpoint forward to one that witnesses signed; of
	// the same size it takes the place of the one there is.
	Publish(ctx context.Context, size int64, signed []byte) error
	// PublishBare moves it forward to a head without witnesses.
	PublishBare(ctx context.Context, size int64, signed []byte) error
	// Begin is PublishBare where nothing is published yet or no replica talks to
	// witnesses, and nothing elsewhere.
	Begin(ctx context.Context, size int64, signed []byte) error
	// Published is the published checkpoint; empty where there is none, or where it
	// has more leaves than the log.
	Published(ctx context.Context) (Published, error)
}

// Config is what a Client works with; every field is required.
type Config struct {
	Log       Log
	Store     Store
	Verifier  note.Verifier // of the log's own key
	Peers     []Peer
	Quorum    int // how many witnesses must sign a checkpoint before it is published
	Telemetry *telemetry.Telemetry
	Clock     func() time.Time
}

// Client is what one replica knows of the witnesses.
type Client struct {
	Config
	board    *Board
	holder   uuid.UUID
	http     *http.Client
	answers  *prometheus.CounterVec
	answered chan answer // has room for all, as a witness is asked one thing at a time
	asking   sync.WaitGroup

	// Of the one goroutine that runs rounds and takes answers.
	asked  map[string]bool  // who has not answered yet, by key
	pauses map[string]pause // by key
	newest *showing         // nil at first, and while another replica talks to witnesses
	behind time.Time        // since when there are leaves that too few witnesses signed; zero if not
}

// showing is a head that witnesses are shown.
type showing struct {
	head      auditlog.Checkpoint
	signed    []byte
	lines     map[string][]byte // of those who signed it, by key
	published bool              // with enough of them
	outgrown  time.Time         // when the log was seen to have gone on; zero while it is the newest
}

// answer is what a witness made of a head.
type answer struct {
	peer Peer
	of   *showing
	line []byte
	err  error
}

// pause is how long a witness that failed is left alone.
type pause struct {
	until time.Time
	next  time.Duration
}

// The results that are counted.
const (
	resultSigned = "signed"
	resultAway   = "away"
	resultForked = "forked"
)

// New returns a Client and registers its metric, agentidp_audit_witness_answers_total
// by witness and result (signed, away, forked).
func New(cfg Config) (*Client, error) {
	c := &Client{
		Config: cfg, board: &Board{Log: cfg.Log, Store: cfg.Store, Verifier: cfg.Verifier}, holder: uuid.New(), http: &http.Client{Timeout: askFor},
		answered: make(chan answer, len(cfg.Peers)), asked: map[string]bool{}, pauses: map[string]pause{},
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentidp_audit_witness_answers_total",
			Help: "What witnesses of the audit log answered: signed, away, or forked, which means they saw another past.",
		}, []string{"witness", "result"}),
	}
	if err := cfg.Telemetry.Metrics.Registry.Register(c.answers); err != nil {
		return nil, fmt.Errorf("register the metric of the witnesses: %w", err)
	}
	for _, peer := range cfg.Peers {
		for _, result := range []string{resultSigned, resultAway, resultForked} {
			c.answers.WithLabelValues(peer.Verifier.Name(), result)
		}
	}
	return c, nil
}

// release gives the turn to the other replicas. Where that fails, the lease ends by
// itself.
func (c *Client) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseFor)
	defer cancel()
	if err := c.Store.Release(ctx, c.holder); err != nil {
		c.Telemetry.Log.WarnContext(ctx, "the turn to ask witnesses could not be given back", slog.Any("error", err))
	}
}

// Run asks the witnesses until ctx ends and then returns nil. Without witnesses it
// only waits.
func (c *Client) Run(ctx context.Context) error {
	if len(c.Peers) == 0 {
		<-ctx.Done()
		return nil
	}
	defer c.release(ctx)
	defer c.asking.Wait()
	tell := func(err error) {
		if err != nil && ctx.Err() == nil {
			c.Telemetry.Log.WarnContext(ctx, "witnesses cannot be asked, will try again", slog.Any("error", err))
		}
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	tell(c.Round(ctx))
	for {
		select {
		case <-ticker.C:
			tell(c.Round(ctx))
		case a := <-c.answered:
			tell(c.take(ctx, a))
		case <-ctx.Done():
			return nil
		}
	}
}

// Published is the published checkpoint; see Board.
func (c *Client) Published(ctx context.Context) (auditlog.Checkpoint, []byte, bool, error) {
	return c.board.Published(ctx)
}

// Round begins to show the newest checkpoint to every witness that has not signed it
// and is not being asked already, if this replica is the one to do so. It waits for no
// answer, so that a slow witness holds up nobody.
func (c *Client) Round(ctx context.Context) error {
	if err := c.board.begin(ctx); err != nil { // before this replica is one that talks to witnesses
		return err
	}
	if held, err := c.Store.Hold(ctx, c.holder, lease); err != nil || !held {
		c.newest, c.behind = nil, time.Time{}
		return err
	}
	signed, err := c.Log.Newest(ctx)
	if err != nil {
		return err
	}
	head, _, err := auditlog.Open(signed, c.Verifier)
	if err != nil || head.Size == 0 {
		return err
	}
	seen, err := c.Store.Seen(ctx)
	if err != nil {
		return err
	}
	c.present(ctx, head, signed, seen)
	return c.settle(ctx)
}

// present has those asked who have not signed the head.
func (c *Client) present(ctx context.Context, head auditlog.Checkpoint, signed []byte, seen map[string]Seen) {
	now := c.Clock()
	if c.newest == nil || c.newest.head != head {
		if c.newest != nil {
			c.newest.outgrown = now
		}
		c.newest = &showing{head: head, signed: signed, lines: map[string][]byte{}}
	}
	for _, peer := range c.Peers {
		last := seen[peer.Key]
		if c.newest.lines[peer.Key] == nil && peer.signs(signed, last.Line, c.Verifier) { // for the replica before this one
			c.newest.lines[peer.Key] = last.Line
		}
		if c.newest.lines[peer.Key] == nil && !c.asked[peer.Key] && !now.Before(c.pauses[peer.Key].until) {
			c.ask(ctx, peer, last.Size)
		}
	}
}

// ask begins to show the newest head to a witness that signed old leaves last, as far as we know.
func (c *Client) ask(ctx context.Context, peer Peer, old int64) {
	c.asked[peer.Key] = true
	of := c.newest
	c.asking.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		line, err := c.show(ctx, peer, old, of.head, of.signed)
		c.answered <- answer{peer, of, line, err}
	})
}

// take keeps what a witness answered. It counts for the head that was shown to it, also
// where the log has gone on meanwhile: while the log grows, a slow witness and a fast one
// have no newer head in common.
func (c *Client) take(ctx context.Context, a answer) error {
	delete(c.asked, a.peer.Key)
	c.note(ctx, a.peer, a.of.head.Size, a.err)
	if a.err == nil {
		a.of.lines[a.peer.Key] = a.line
		return errors.Join(c.Store.Saw(ctx, a.peer.Key, Seen{Size: a.of.head.Size, Line: a.line}), c.publish(ctx, a.of))
	}
	return nil
}

// settle publishes the newest head as it is where the witnesses let it wait.
func (c *Client) settle(ctx context.Context) error {
	now := c.Clock()
	if len(c.newest.lines) >= c.Quorum {
		c.behind = time.Time{}
		if c.newest.published {
			return nil
		}
		return c.publish(ctx, c.newest) // signed before, and not published for a fault or by another replica
	}
	if c.behind.IsZero() {
		c.behind = now
	}
	if now.Sub(c.behind) < patience {
		return nil
	}
	return c.Store.PublishBare(ctx, c.newest.head.Size, c.newest.signed)
}

// publish publishes a head with the signatures under it, if they are enough.
func (c *Client) publish(ctx context.Context, s *showing) error {
	if len(s.lines) < c.Quorum {
		return nil
	}
	signed := bytes.Clone(s.signed)
	for _, peer := range c.Peers {
		signed = append(signed, s.lines[peer.Key]...)
	}
	if err := c.Store.Publish(ctx, s.head.Size, signed); err != nil {
		return err
	}
	s.published = true
	switch {
	case s == c.newest:
		c.behind = time.Time{}
	case !c.behind.IsZero() && c.behind.Before(s.outgrown):
		c.behind = s.outgrown
	}
	return nil
}

// show submits the checkpoint, once more from another size where the witness is not
// where we thought. How far it has come is the witness's to say: what we remember may
// be of a past that a backup took the place of.
func (c *Client) show(ctx context.Context, peer Peer, old int64, head auditlog.Checkpoint, signed []byte) ([]byte, error) {
	old = min(old, head.Size)
	for again := false; ; again = true {
		proof, err := c.Log.Consistency(ctx, old, &head.Size)
		if err != nil {
			return nil, err
		}
		request := auditlog.AddCheckpoint{Old: old, Proof: proof.Hashes, Checkpoint: signed}
		line, err := peer.ask(ctx, c.http, request, c.Verifier)
		var behind *behindError
		switch {
		case !errors.As(err, &behind):
			return line, err
		case behind.size > head.Size:
			return nil, c.outpaced(ctx, behind.size)
		case again:
			return nil, err
		}
		old = behind.size
	}
}

// outpaced tells why a witness signed more leaves than the head had that was to be shown to it: another replica showed
// it a newer one meanwhile, or the log lost some.
func (c *Client) outpaced(ctx context.Context, size int64) error {
	signed, err := c.Log.Newest(ctx)
	if err != nil {
		return err
	}
	head, _, err := auditlog.Open(signed, c.Verifier)
	switch {
	case err != nil:
		return err
	case head.Size < size:
		return fmt.Errorf("%w: it signed %d leaves, and the log has %d", errForked, size, head.Size)
	}
	return errOutpaced
}

// note counts what a witness answered, and leaves one that failed alone for a while.
func (c *Client) note(ctx context.Context, peer Peer, size int64, err error) {
	name := peer.Verifier.Name()
	if err == nil {
		delete(c.pauses, peer.Key)
		c.answers.WithLabelValues(name, resultSigned).Inc()
		return
	}
	if errors.Is(err, errOutpaced) {
		return // the next round has the newer head
	}
	next := max(firstPause, min(2*c.pauses[peer.Key].next, lastPause))
	c.pauses[peer.Key] = pause{until: c.Clock().Add(next), next: next}
	attrs := []any{slog.String("witness", name), slog.Int64("size", size), slog.Any("error", err)}
	if errors.Is(err, errForked) {
		c.answers.WithLabelValues(name, resultForked).Inc()
		c.Telemetry.Log.ErrorContext(ctx, "a witness refuses the audit log: it saw another past", attrs...)
		return
	}
	c.answers.WithLabelValues(name, resultAway).Inc()
	c.Telemetry.Log.WarnContext(ctx, "a witness did not sign", attrs...)
}
