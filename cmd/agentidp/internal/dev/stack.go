package dev

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

const (
	readyTimeout = 60 * time.Second
	readyEvery   = 20 * time.Millisecond
)

// stack is the services of one run, in this process.
type stack struct {
	programs []program
	layout   layout
	environ  func(string) (string, bool)
	logs     *logs

	cancel  context.CancelFunc
	running sync.WaitGroup
	// failed gets the first service that ended by itself, with its reason.
	failed chan error
}

// start brings all services up and returns when they are ready. They run until close, whatever becomes of
// ctx. The token service comes first: the others fetch its signing keys when they start, and one that
// finds none waits a while before it asks again.
func (s *stack) start(ctx context.Context) error {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.failed = make(chan error, len(s.programs))
	var first, rest []program
	for _, prog := range s.programs {
		if prog.name == "token" {
			first = append(first, prog)
		} else {
			rest = append(rest, prog)
		}
	}
	for _, together := range [][]program{first, rest} {
		if err := s.launch(running, together); err != nil {
			return err
		}
		if err := s.waitReady(ctx, together); err != nil {
			return err
		}
	}
	return nil
}

// launch builds services and lets them run.
func (s *stack) launch(running context.Context, programs []program) error {
	for _, prog := range programs {
		service, err := s.listen(running, prog)
		if err != nil {
			return s.logs.explain(prog.name, err)
		}
		s.running.Go(func() {
			err := service.Run(running)
			switch {
			case err != nil:
				s.failed <- s.logs.explain(prog.name, fmt.Errorf("the %s service failed: %w", prog.name, err))
			case running.Err() == nil:
				s.failed <- s.logs.explain(prog.name, fmt.Errorf("the %s service ended by itself", prog.name))
			}
		})
	}
	return nil
}

func (s *stack) listen(ctx context.Context, prog program) (runnable, error) {
	log, err := s.logs.open(prog.name)
	if err != nil {
		return nil, err
	}
	service, err := prog.build(telemetry.WithOutput(ctx, log), s.layout.options(prog.name, s.environ)...)
	if err != nil {
		return nil, fmt.Errorf("start the %s service: %w", prog.name, err)
	}
	if err := service.Listen(); err != nil {
		return nil, fmt.Errorf("start the %s service: %w", prog.name, err)
	}
	return service, nil
}

// waitReady returns when every one of the services says on its internal port that it is ready.
func (s *stack) waitReady(ctx context.Context, programs []program) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	group, waiting := errgroup.WithContext(ctx)
	for _, prog := range programs {
		group.Go(func() error {
			if err := waitForOK(waiting, s.layout.services[prog.name].internalURL+"/readyz"); err != nil {
				return s.logs.explain(prog.name, fmt.Errorf("the %s service did not become ready: %w", prog.name, err))
			}
			return nil
		})
	}
	ready := make(chan error, 1)
	go func() { ready <- group.Wait() }()
	select {
	case err := <-ready:
		return err
	case err := <-s.failed:
		cancel()
		<-ready
		return err
	}
}

// waitForOK asks until the answer is 200 or ctx ends.
func waitForOK(ctx context.Context, url string) error {
	ticker := time.NewTicker(readyEvery)
	defer ticker.Stop()
	var last error
	for {
		err := askOK(ctx, url)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // what the service said, not that the waiting ended
		}
		select {
		case <-ctx.Done():
			return last
		case <-ticker.C:
		}
	}
}

func askOK(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d", url, res.StatusCode)
	}
	return nil
}

// close tells all services to drain and waits for them.
func (s *stack) close() error {
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	s.running.Wait()
	select {
	case err := <-s.failed:
		return err
	default:
		return nil
	}
}
