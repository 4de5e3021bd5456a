package load

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sentryagent/agentidp/pkg/idle"
)

// StormPlan is what a storm consists of.
type StormPlan struct {
	Address  string   // host:port
	Requests [][]byte // sent in turn, by whichever connection is free
	// Patient connections are kept and wait for each answer; Hasty ones hang up when it has not come after HangUp, and
	// dial anew, so that what they send does not depend on how fast they are answered.
	Patient, Hasty int
	Patience       time.Duration // of the patient for one answer
	HangUp         time.Duration
}

// Tally is what became of a storm's requests: Sent is the sum of Answers and Unanswered.
type Tally struct {
	Sent       int64
	Answers    map[int]int64 // by status
	Unanswered int64         // hung up on, by either side; whether the server saw them nobody knows
	NoDial     int64         // dials in vain: nothing was sent
}

// Storm is the opposite of a Load: it is not interested in the answers, and its connections are not a limit.
type Storm struct {
	plan    StormPlan
	next    atomic.Int64
	noDial  atomic.Int64
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	tally   Tally
}

// StartStorm begins one that goes on until Stop, or until ctx ends.
func StartStorm(ctx context.Context, plan StormPlan) (*Storm, error) {
	if len(plan.Requests) == 0 || plan.Patient+plan.Hasty < 1 {
		return nil, errors.New("a storm needs requests and connections")
	}
	s := &Storm{plan: plan, tally: Tally{Answers: map[int]int64{}}}
	ctx, s.cancel = context.WithCancel(ctx)
	for range plan.Patient {
		s.running.Go(func() { s.work(ctx, plan.Patience) })
	}
	for range plan.Hasty {
		s.running.Go(func() { s.work(ctx, plan.HangUp) })
	}
	return s, nil
}

// Sent is how many requests were sent so far, some of them perhaps not yet whole.
func (s *Storm) Sent() int64 { return s.next.Load() }

// Stop sends nothing more, waits for what is under way as long as its connection is patient, and answers what became of all.
func (s *Storm) Stop() Tally {
	s.cancel()
	s.running.Wait()
	s.tally.Sent, s.tally.NoDial = s.next.Load(), s.noDial.Load()
	return s.tally
}

// work is one connection after the other, each with one request at a time.
func (s *Storm) work(ctx context.Context, patience time.Duration) {
	answers, unanswered := map[int]int64{}, int64(0)
	c := &connection{buffer: make([]byte, bufferBytes)}
	for ctx.Err() == nil {
		if c.Conn == nil && !s.dial(ctx, c, patience) {
			continue
		}
		request := s.plan.Requests[(s.next.Add(1)-1)%int64(len(s.plan.Requests))]
		_ = c.SetDeadline(time.Now().Add(patience))
		status, _, err := c.roundTrip(request)
		if err == nil {
			answers[status]++
			continue
		}
		unanswered++
		_ = c.Close()
		c.Conn = nil
	}
	if c.Conn != nil {
		_ = c.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally.Unanswered += unanswered
	for status, count := range answers {
		s.tally.Answers[status] += count
	}
}

// dial opens a connection that leaves nothing behind when it is closed: it is reset, as otherwise each would keep its
// port for a minute and there would soon be none left.
func (s *Storm) dial(ctx context.Context, c *connection, patience time.Duration) bool {
	dialer := net.Dialer{Timeout: patience}
	conn, err := dialer.DialContext(ctx, "tcp", s.plan.Address)
	if err != nil {
		if ctx.Err() == nil {
			s.noDial.Add(1)
		}
		_ = idle.For(ctx, patience/10) // what refuses at once would only be asked in circles
		return false
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Conn = conn
	return true
}

// Once sends one request over a connection of its own, and gives up after patience.
func Once(ctx context.Context, address string, request []byte, patience time.Duration) (status int, body []byte, err error) {
	c, err := dial(ctx, address, time.Now().Add(patience))
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = c.Close() }()
	return c.roundTrip(request)
}
