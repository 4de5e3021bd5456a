package redisx

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxUnderWay is how many batches are on their way at a time: one more than one, so that the next does not wait for
	// the answer of the last.
	maxUnderWay = 2
	// maxBatch bounds one batch.
	maxBatch = 128
	// batchTimeout is past every timeout of the client itself.
	batchTimeout = 2 * time.Second
)

// RunScript runs a script, in one round trip that it shares with other calls of RunScript: what is asked while batches are
// under way goes together in the next one. A call waits for nobody otherwise, and its answer and error are its own. With many
// concurrent requests most of what Redis costs is reading and writing sockets, on both sides, and that is what is shared.
//
// Where the server does not know the script yet it is loaded, once for all who ask, and run after that.
func (c *Client) RunScript(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	words := make([]any, 0, 3+len(keys)+len(args))
	words = append(words, "evalsha", script.Hash(), len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	words = append(words, args...)
	cmd := c.shared.run(ctx, words)
	if !redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		return cmd
	}
	_, err, _ := c.loads.Do(script.Hash(), func() (any, error) {
		// Not the first asker's context: others wait for the same load.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), batchTimeout)
		defer cancel()
		return nil, script.Load(ctx, c).Err()
	})
	if err != nil {
		return failed(ctx, err)
	}
	return c.shared.run(ctx, words)
}

func failed(ctx context.Context, err error) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(err)
	return cmd
}

// run answers the command with its answer or error.
func (t *together) run(ctx context.Context, words []any) *redis.Cmd {
	cmd := redis.NewCmd(ctx, words...)
	if err := t.send(ctx, cmd); err != nil {
		return failed(ctx, err) // the first may be written to still
	}
	return cmd
}

// together sends commands of concurrent callers in common pipelines.
type together struct {
	exec func(ctx context.Context, batch []redis.Cmder)

	mu       sync.Mutex
	waiting  []passenger
	underWay int
}

// passenger is a command that waits to be sent, or for its answer.
type passenger struct {
	cmd  redis.Cmder
	done chan struct{} // closed once cmd has its answer or error
}

func newTogether(client redis.UniversalClient) *together {
	return &together{exec: func(ctx context.Context, batch []redis.Cmder) {
		if len(batch) == 1 {
			_ = client.Process(ctx, batch[0]) // the command has its error
			return
		}
		pipe := client.Pipeline()
		for _, cmd := range batch {
			_ = pipe.Process(ctx, cmd) // queues
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
	}}
}

// send returns nil when cmd has its answer or its error, else the error of ctx; cmd must not be looked at then.
func (t *together) send(ctx context.Context, cmd redis.Cmder) error {
	t.mu.Lock()
	if t.underWay < maxUnderWay && len(t.waiting) == 0 {
		t.underWay++
		t.mu.Unlock()
		// Nobody else's command: it may end with its own context.
		t.exec(ctx, []redis.Cmder{cmd})
		t.next() //nolint:contextcheck // what it sends is others', and does not end with this context
		return nil
	}
	p := passenger{cmd: cmd, done: make(chan struct{})}
	t.waiting = append(t.waiting, p)
	t.mu.Unlock()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// next is called when a batch is done: it sends off what waits, or leaves its place.
func (t *together) next() {
	batch := t.take()
	if len(batch) == 0 {
		return
	}
	go func() {
		for ; len(batch) > 0; batch = t.take() {
			t.carry(batch)
		}
	}()
}

// take gives what waits, and gives up the place under way where nothing does.
func (t *together) take() []passenger {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.waiting), maxBatch)
	if n == 0 {
		t.underWay--
		return nil
	}
	batch := t.waiting[:n:n]
	t.waiting = t.waiting[n:]
	return batch
}

func (t *together) carry(batch []passenger) {
	// Not the context of one of them: the others' commands must not end with it.
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	cmds := make([]redis.Cmder, len(batch))
	for i, p := range batch {
		cmds[i] = p.cmd
	}
	t.exec(ctx, cmds)
	for _, p := range batch {
		close(p.done)
	}
}
