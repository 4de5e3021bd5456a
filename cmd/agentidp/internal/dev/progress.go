package dev

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// stillAfter is how long a step may take before it says that it is still at work, and how often it does.
const stillAfter = 5 * time.Second

// progress tells a person, line by line, what happens and how long it took. It is safe for concurrent use.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	clock func() time.Time
	start time.Time
}

func newProgress(out io.Writer, clock func() time.Time) *progress {
	return &progress{out: out, clock: clock, start: clock()}
}

// printf writes whole lines; what cannot be written is nobody's loss.
func (p *progress) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, format, args...)
}

// note is a line about something that is not a step.
func (p *progress) note(format string, args ...any) {
	p.printf("  note  "+format+"\n", args...)
}

// step runs work and prints one line when it is done; work gives what to say about it.
func (p *progress) step(name string, work func() (detail string, err error)) error {
	began := p.clock()
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { p.watch(name, began, done) })
	detail, err := work()
	close(done)
	watching.Wait()
	took := p.clock().Sub(began).Seconds()
	if err != nil {
		p.printf("  FAIL  %-12s %6.2f s\n", name, took)
		return err
	}
	p.printf("  ok    %-12s %6.2f s  %s\n", name, took, detail)
	return nil
}

func (p *progress) watch(name string, began time.Time, done <-chan struct{}) {
	ticker := time.NewTicker(stillAfter)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			p.printf("  ...   %-12s %6.0f s so far\n", name, p.clock().Sub(began).Seconds())
		}
	}
}

// elapsed is the time since the start, in seconds.
func (p *progress) elapsed() float64 { return p.clock().Sub(p.start).Seconds() }
