// Package load is a closed-loop load generator: every connection sends its next request when the answer to the last one
// is there. It shares the machine with what it loads, so it is made to be cheap, and it counts nothing as done that it
// has not checked.
package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Plan is what a load consists of.
type Plan struct {
	Address     string   // host:port
	Connections int      // each with one request at a time
	Requests    [][]byte // sent in turn, by whichever connection is free
	// Check says what is wrong with an answer. It must not keep the body.
	Check func(status int, body []byte) error
	// Sample keeps every so many-th body; 0 keeps none.
	Sample int
	// Limit ends the load after so many requests; 0 for none. Everything is measured then, from the first to the last.
	Limit int64
	// Patience is how long the whole load may take before its connections give up.
	Patience time.Duration
}

// Load is running.
type Load struct {
	plan      Plan
	workers   []*worker
	next      atomic.Int64
	stopping  atomic.Bool
	measuring atomic.Bool
	running   sync.WaitGroup
	begin     time.Time
	elapsed   time.Duration
}

// worker is one connection and what became of its requests.
type worker struct {
	*connection

	done      atomic.Int64
	latencies []time.Duration // of those that ended while measuring
	samples   [][]byte
	err       error
}

// Start opens the connections and begins.
func Start(ctx context.Context, plan Plan) (*Load, error) {
	if len(plan.Requests) == 0 || plan.Connections < 1 {
		return nil, errors.New("a load needs requests and connections")
	}
	l := &Load{plan: plan}
	deadline := time.Now().Add(plan.Patience)
	for range plan.Connections {
		c, err := dial(ctx, plan.Address, deadline)
		if err != nil {
			l.close()
			return nil, err
		}
		l.workers = append(l.workers, &worker{connection: c})
	}
	if plan.Limit > 0 {
		l.Measure()
	}
	for _, w := range l.workers {
		l.running.Go(func() {
			w.err = l.work(ctx, w)
			if w.err != nil {
				l.stopping.Store(true) // one answer that is wrong spoils the whole measurement
			}
		})
	}
	return l, nil
}

func (l *Load) close() {
	for _, w := range l.workers {
		_ = w.Close()
	}
}

func (l *Load) work(ctx context.Context, w *worker) error {
	requests := l.plan.Requests
	sample := int64(l.plan.Sample)
	for !l.stopping.Load() {
		number := l.next.Add(1) - 1
		if l.plan.Limit > 0 && number >= l.plan.Limit {
			return nil
		}
		if number&1023 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		sent := time.Now()
		status, body, err := w.roundTrip(requests[number%int64(len(requests))])
		took := time.Since(sent)
		if err != nil {
			return err
		}
		if err := l.plan.Check(status, body); err != nil {
			return err
		}
		w.done.Add(1)
		if l.measuring.Load() {
			w.latencies = append(w.latencies, took)
		}
		if sample > 0 && number%sample == 0 {
			w.samples = append(w.samples, slices.Clone(body))
		}
	}
	return nil
}

// Done is how many requests were answered so far, also while nothing is measured.
func (l *Load) Done() int64 {
	var sum int64
	for _, w := range l.workers {
		sum += w.done.Load()
	}
	return sum
}

// Failed tells that the load has ended by itself.
func (l *Load) Failed() bool { return l.stopping.Load() }

// Measure begins to count: what is answered from now on belongs to the result.
func (l *Load) Measure() {
	l.begin = time.Now()
	l.measuring.Store(true)
}

// Pause ends the count, and the load goes on.
func (l *Load) Pause() {
	l.measuring.Store(false)
	l.elapsed = time.Since(l.begin)
}

// Result is what was counted between Measure and Pause.
type Result struct {
	Answered  int           // while measuring
	Total     int64         // before and after too
	Elapsed   time.Duration // of the measurement
	Latencies Latencies
	Samples   [][]byte
}

// PerSecond is the throughput.
func (r Result) PerSecond() float64 { return float64(r.Answered) / r.Elapsed.Seconds() }

// Stop lets the requests under way end and answers what was measured.
func (l *Load) Stop() (Result, error) {
	l.stopping.Store(true)
	return l.Wait()
}

// Wait is for a load with a limit: it returns when that is reached.
func (l *Load) Wait() (Result, error) {
	l.running.Wait()
	if l.measuring.Load() {
		l.Pause()
	}
	l.close()
	result := Result{Total: l.Done(), Elapsed: l.elapsed}
	var failures []error
	for _, w := range l.workers {
		result.Latencies = append(result.Latencies, w.latencies...)
		result.Samples = append(result.Samples, w.samples...)
		if w.err != nil && !errors.Is(w.err, net.ErrClosed) {
			failures = append(failures, w.err)
		}
	}
	result.Answered = len(result.Latencies)
	slices.Sort(result.Latencies)
	if len(failures) > 0 {
		return result, fmt.Errorf("%d of %d connections failed, the first: %w", len(failures), len(l.workers), failures[0])
	}
	return result, nil
}

// Latencies are sorted.
type Latencies []time.Duration

// Percentile is the nearest-rank percentile, p from 0 to 100; 0 of nothing.
func (l Latencies) Percentile(p float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	rank := int(p / 100 * float64(len(l)))
	if float64(rank) < p/100*float64(len(l)) {
		rank++
	}
	return l[min(max(rank, 1), len(l))-1]
}

// Median of values, which it sorts.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}
