package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sentryagent/agentidp/pkg/idle"
)

// Run writes behind until ctx is done, and once more then.
func (b *Budget) Run(ctx context.Context) error {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	var outage idle.Outage
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			if err := b.write(last); err != nil {
				b.Log.WarnContext(ctx, "quota counts were not written; redis has them", slog.Any("error", err))
			}
			return nil
		case <-ticker.C:
		}
		err := b.pass(ctx)
		if outage.Begins(ctx, err) {
			b.Log.WarnContext(ctx, "quota counts wait to be written", slog.Any("error", err))
		}
	}
}

func (b *Budget) pass(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, afterwards)
	defer cancel()
	if err := b.write(ctx); err != nil {
		return err
	}
	for _, acc := range b.ledger.behind() {
		if _, err := b.catchUp(ctx, acc); err != nil {
			// It stays noted; while Redis is away there is nothing to raise.
			if errors.Is(err, errRedis) {
				return nil
			}
			return err
		}
	}
	return nil
}

// write stores what this replica saw. A count that is higher in Postgres than
// what was seen tells that Redis may have fallen behind: it is raised.
func (b *Budget) write(ctx context.Context) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	for chunk := range slices.Chunk(b.ledger.unwritten(), writeChunk) {
		stored, err := b.Store.Raise(ctx, chunk)
		if err != nil {
			return fmt.Errorf("write quota counts: %w", err)
		}
		b.ledger.written(chunk)
		seen := make(map[account]int64, len(chunk))
		for _, count := range chunk {
			seen[count.account()] = count.Used
		}
		var higher []Count
		for _, count := range stored {
			if count.Used > seen[count.account()] {
				higher = append(higher, count)
			}
		}
		b.raiseCounters(ctx, higher)
	}
	return nil
}

// raiseCounters raises counters in Redis to what Postgres has, in one round trip and without the requests waiting for
// it. With several replicas that is mostly what another one saw and wrote a moment earlier. What cannot be raised is
// noted, and caught up with before it is charged again.
func (b *Budget) raiseCounters(ctx context.Context, counts []Count) {
	if len(counts) == 0 {
		return
	}
	run := b.Redis.RunID()
	pipe := b.Redis.Pipeline()
	// In the same pipeline as its uses, so that they find it also on a server that was just restarted.
	pipe.ScriptLoad(ctx, raiseLua)
	for _, count := range counts {
		b.raise.EvalSha(ctx, pipe, []string{b.counter(count.account(), run)}, count.Used)
	}
	if _, err := pipe.Exec(ctx); err == nil && b.Redis.RunID() == run {
		return
	}
	for _, count := range counts {
		b.ledger.fellBehind(count.account())
	}
}
