package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Run writes behind until ctx is done, and once more then.
func (b *Budget) Run(ctx context.Context) error {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	failing := false
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
		if err != nil && !failing && ctx.Err() == nil {
			b.Log.WarnContext(ctx, "quota counts wait to be written", slog.Any("error", err))
		}
		failing = err != nil
	}
}

func (b *Budget) pass(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, afterwards)
	defer cancel()
	if err := b.write(ctx); err != nil {
		return err
	}
	for _, acc := range b.ledger.behind() {
		if err := b.catchUp(ctx, acc); err != nil {
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
		for _, count := range stored {
			if acc := count.account(); count.Used > seen[acc] {
				b.ledger.fellBehind(acc)
			}
		}
	}
	return nil
}
