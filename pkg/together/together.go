// Package together lets concurrent callers share trips to a server: what is asked while trips are under way goes
// together in the next one. A caller waits for nobody otherwise, and what it is answered is its own. It must not know
// what is asked, nor keep an answer.
package together

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Config bounds trips; every field is required.
type Config struct {
	// UnderWay is how many trips are under way at a time.
	UnderWay int
	// Most is the most questions that go together.
	Most int
	// Timeout ends a trip that several share. It is to lie past every timeout of the carrier itself.
	Timeout time.Duration
}

// Trips carries questions Q to where there are answers A. It is safe for concurrent use.
type Trips[Q, A any] struct {
	cfg   Config
	carry func(ctx context.Context, questions []Q) []A

	mu       sync.Mutex
	waiting  []*passenger[Q, A]
	underWay int
}

// passenger is a question that waits to be carried, or for its answer.
type passenger[Q, A any] struct {
	ctx      context.Context //nolint:containedctx // of who waits for this one among the many of a trip
	question Q
	answer   A
	err      error
	done     chan struct{} // closed once answer or err is there
}

// New makes Trips; carry has one answer for each question, in their order.
func New[Q, A any](cfg Config, carry func(ctx context.Context, questions []Q) []A) *Trips[Q, A] {
	return &Trips[Q, A]{cfg: cfg, carry: carry}
}

// ErrLost is the error of a question that a trip has not brought back, because carry panicked or had no answer for it.
var ErrLost = errors.New("together: the question was lost on its way")

// Ask answers the question. The error is that of ctx, and then the question may still be under way; or ErrLost. Who does
// not wait any more when a trip begins is not carried.
func (t *Trips[Q, A]) Ask(ctx context.Context, question Q) (A, error) {
	t.mu.Lock()
	if t.underWay < t.cfg.UnderWay && len(t.waiting) == 0 {
		t.underWay++
		t.mu.Unlock()
		defer t.next()
		// Nobody else's question: it may end with its own context.
		return t.carry(ctx, []Q{question})[0], nil
	}
	p := t.join(ctx, question)
	t.mu.Unlock()
	return p.wait()
}

// Begin is Ask for who has something else to do until the answer is there: it answers the function that waits for it.
func (t *Trips[Q, A]) Begin(ctx context.Context, question Q) (wait func() (A, error)) {
	t.mu.Lock()
	p := t.join(ctx, question)
	begins := t.underWay < t.cfg.UnderWay
	if begins {
		t.underWay++
	}
	t.mu.Unlock()
	if begins {
		t.next()
	}
	return p.wait
}

// join is called with mu.
func (t *Trips[Q, A]) join(ctx context.Context, question Q) *passenger[Q, A] {
	p := &passenger[Q, A]{ctx: ctx, question: question, done: make(chan struct{})}
	t.waiting = append(t.waiting, p)
	return p
}

func (p *passenger[Q, A]) wait() (A, error) {
	select {
	case <-p.done:
	case <-p.ctx.Done():
		select {
		case <-p.done: // who comes late for it finds it all the same
		default:
			var none A
			return none, p.ctx.Err()
		}
	}
	return p.answer, p.err
}

// next is called with a place under way: it begins a trip with those who wait, or leaves the place.
func (t *Trips[Q, A]) next() {
	batch := t.take()
	if len(batch) == 0 {
		return
	}
	go func() {
		for ; len(batch) > 0; batch = t.take() {
			t.travel(batch)
		}
	}()
}

// take gives those who wait, and gives up the place under way where nobody does.
func (t *Trips[Q, A]) take() []*passenger[Q, A] {
	t.mu.Lock()
	defer t.mu.Unlock()
	var batch []*passenger[Q, A]
	taken := 0
	for ; taken < len(t.waiting) && len(batch) < t.cfg.Most; taken++ {
		if p := t.waiting[taken]; p.ctx.Err() == nil {
			batch = append(batch, p)
		}
	}
	t.waiting = t.waiting[taken:]
	if len(batch) == 0 {
		t.underWay--
	}
	return batch
}

func (t *Trips[Q, A]) travel(batch []*passenger[Q, A]) {
	// Not the context of one of them: the others' questions must not end with it.
	ctx, cancel := context.WithTimeout(context.Background(), t.cfg.Timeout)
	defer cancel()
	questions := make([]Q, len(batch))
	for i, p := range batch {
		questions[i] = p.question
	}
	answered := 0
	defer func() {
		// A panic here would end the process, as nobody's request is on this stack: its passengers are told instead.
		err := ErrLost
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("%w: panic: %v\n%s", ErrLost, panicked, debug.Stack())
		}
		for _, p := range batch[answered:] {
			p.err = err
			close(p.done)
		}
	}()
	for _, answer := range t.carry(ctx, questions) {
		batch[answered].answer = answer
		close(batch[answered].done)
		answered++
	}
}
