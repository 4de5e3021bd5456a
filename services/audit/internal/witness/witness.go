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

// Seen is what a witness signed last. Line is empty where only the size is known.
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
	// Saw keeps what a witness signed, unless it signed more leaves before.
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
	board   *Board
	holder  uuid.UUID
	http    *http.Client
	answers *prometheus.CounterVec

	// Of the one goroutine that runs rounds.
	pauses map[string]pause // by key
	shown  int64            // of how many leaves it was that was published last with signatures
	behind time.Time        // since when there are leaves that too few witnesses signed; zero if not
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
	holder, err := uuid.NewRandom()
	if err != nil {
		return nil, err
	}
	c := &Client{
		Config: cfg, board: &Board{Log: cfg.Log, Store: cfg.Store, Verifier: cfg.Verifier}, holder: holder, http: &http.Client{Timeout: askFor}, pauses: map[string]pause{},
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
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := c.Round(ctx); err != nil && ctx.Err() == nil {
			c.Telemetry.Log.WarnContext(ctx, "witnesses cannot be asked, will try again", slog.Any("error", err))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Published is the published checkpoint; see Board.
func (c *Client) Published(ctx context.Context) (auditlog.Checkpoint, []byte, bool, error) {
	return c.board.Published(ctx)
}

// Round shows the newest checkpoint once to every witness that has not signed it,
// if this replica is the one to do so, and publishes it.
func (c *Client) Round(ctx context.Context) error {
	if err := c.board.begin(ctx); err != nil { // before this replica is one that talks to witnesses
		return err
	}
	if held, err := c.Store.Hold(ctx, c.holder, lease); err != nil || !held {
		c.behind = time.Time{}
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
	type answer struct {
		peer Peer
		seen Seen
		err  error
	}
	answers := make(chan answer, len(c.Peers))
	asked := 0
	for _, peer := range c.Peers {
		last := seen[peer.Key]
		if last.Size == head.Size && len(last.Line) > 0 || c.Clock().Before(c.pauses[peer.Key].until) {
			continue
		}
		asked++
		go func() {
			ctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			line, err := c.show(ctx, peer, last.Size, head, signed)
			answers <- answer{peer, Seen{Size: head.Size, Line: line}, err}
		}()
	}
	for range asked {
		a := <-answers
		c.note(ctx, a.peer, head.Size, a.err)
		if a.err != nil {
			continue
		}
		seen[a.peer.Key] = a.seen
		if err := errors.Join(c.Store.Saw(ctx, a.peer.Key, a.seen), c.publish(ctx, head, signed, seen)); err != nil {
			return err
		}
	}
	return c.settle(ctx, head, signed, seen)
}

// settle publishes the head as it is where the witnesses let it wait.
func (c *Client) settle(ctx context.Context, head auditlog.Checkpoint, signed []byte, seen map[string]Seen) error {
	now := c.Clock()
	if _, enough := c.cosigned(head, signed, seen); enough {
		c.behind = time.Time{}
		if c.shown == head.Size {
			return nil
		}
		return c.publish(ctx, head, signed, seen) // signed before, and not published for a fault or by another replica
	}
	if c.behind.IsZero() {
		c.behind = now
	}
	if now.Sub(c.behind) < patience {
		return nil
	}
	return c.Store.PublishBare(ctx, head.Size, signed)
}

// show submits the checkpoint, once more from another size where the witness is not
// where we thought.
func (c *Client) show(ctx context.Context, peer Peer, old int64, head auditlog.Checkpoint, signed []byte) ([]byte, error) {
	for again := false; ; again = true {
		if old > head.Size {
			return nil, c.outpaced(ctx, old)
		}
		proof, err := c.Log.Consistency(ctx, old, &head.Size)
		if err != nil {
			return nil, err
		}
		request := auditlog.AddCheckpoint{Old: old, Proof: proof.Hashes, Checkpoint: signed}
		line, err := peer.ask(ctx, c.http, request, c.Verifier)
		var behind *behindError
		if errors.As(err, &behind) && !again {
			old = behind.size
			continue
		}
		return line, err
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

// publish publishes the checkpoint with the signatures under it, if they are enough.
func (c *Client) publish(ctx context.Context, head auditlog.Checkpoint, signed []byte, seen map[string]Seen) error {
	note, enough := c.cosigned(head, signed, seen)
	if !enough {
		return nil
	}
	err := c.Store.Publish(ctx, head.Size, note)
	if err == nil {
		c.shown = head.Size
	}
	return err
}

// cosigned is the checkpoint with the signatures under it, and whether they are enough.
func (c *Client) cosigned(head auditlog.Checkpoint, signed []byte, seen map[string]Seen) (note []byte, enough bool) {
	note, signatures := bytes.Clone(signed), 0
	for _, peer := range c.Peers {
		if last := seen[peer.Key]; last.Size == head.Size && len(last.Line) > 0 {
			note = append(note, last.Line...)
			signatures++
		}
	}
	return note, signatures >= c.Quorum
}
