package redisx

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/together"
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
	cmd := run(ctx, c.shared, words)
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
	return run(ctx, c.shared, words)
}

func failed(ctx context.Context, err error) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(err)
	return cmd
}

// run answers the command with its answer or error.
func run(ctx context.Context, trips *together.Trips[redis.Cmder, struct{}], words []any) *redis.Cmd {
	cmd := redis.NewCmd(ctx, words...)
	if _, err := trips.Ask(ctx, cmd); err != nil {
		return failed(ctx, err) // the first may be written to still
	}
	return cmd
}

// newTrips carries commands in common pipelines. The answer of each is in the command itself.
func newTrips(client redis.UniversalClient) *together.Trips[redis.Cmder, struct{}] {
	cfg := together.Config{UnderWay: maxUnderWay, Most: maxBatch, Timeout: batchTimeout}
	return together.New(cfg, func(ctx context.Context, batch []redis.Cmder) []struct{} {
		answered := make([]struct{}, len(batch))
		if len(batch) == 1 {
			_ = client.Process(ctx, batch[0]) // the command has its error
			return answered
		}
		pipe := client.Pipeline()
		for _, cmd := range batch {
			_ = pipe.Process(ctx, cmd) // queues
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
		return answered
	})
}
