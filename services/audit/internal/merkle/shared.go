package merkle

import (
	"cmp"
	"context"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/together"
)

const (
	// mostTiles is how many whole tiles are remembered, of 8 KiB each.
	mostTiles = 1024
	// mostReads is how many connections to Postgres tiles are read with at a time.
	mostReads = 4
	// tripTimeout is past the timeouts of a statement.
	tripTimeout = time.Minute
)

// shared is a Store that everybody may ask, without a token, and that leaves the
// database to those who store events: heads that are asked for at the same time are
// read once, and never before they were asked for; whole tiles, which never change,
// are read once in a while; and few connections are in use for it, however many ask.
type shared struct {
	Store

	heads *together.Trips[struct{}, answer]
	reads chan struct{}

	mu    sync.Mutex
	size  int64 // the most leaves that were seen
	tiles map[place][]byte
}

// answer is a head or why there is none.
type answer struct {
	head Head
	err  error
}

// place is where a tile is.
type place struct {
	level int
	index int64
}

func share(store Store) *shared {
	s := &shared{Store: store, reads: make(chan struct{}, mostReads), tiles: map[place][]byte{}}
	s.heads = once(store.Head)
	return s
}

// once has read be called once for all who ask meanwhile.
func once(read func(ctx context.Context) (Head, error)) *together.Trips[struct{}, answer] {
	config := together.Config{UnderWay: 1, Most: 1 << 20, Timeout: tripTimeout}
	return together.New(config, func(ctx context.Context, who []struct{}) []answer {
		head, err := read(ctx)
		answers := make([]answer, len(who))
		for i := range answers {
			answers[i] = answer{head, err}
		}
		return answers
	})
}

// Head is the newest head. Where it has fewer leaves than before, a backup took the
// place of the log, and no tile is what it was.
func (s *shared) Head(ctx context.Context) (Head, error) {
	a, err := s.heads.Ask(ctx, struct{}{})
	if err != nil || a.err != nil {
		return Head{}, cmp.Or(err, a.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.head.Size < s.size {
		clear(s.tiles)
	}
	s.size = a.head.Size
	return a.head, nil
}

// Tiles are remembered tiles, and others from the store.
func (s *shared) Tiles(ctx context.Context, tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	var missing []tlog.Tile
	var at []int
	s.mu.Lock()
	for i, tile := range tiles {
		if data[i] = s.tiles[place{tile.L, tile.N}]; data[i] == nil {
			missing, at = append(missing, tile), append(at, i)
		}
	}
	s.mu.Unlock()
	if len(missing) == 0 {
		return data, nil
	}
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	read, err := s.Store.Tiles(ctx, missing)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, tile := range missing {
		data[at[i]] = read[i]
		if len(read[i]) == auditlog.TileWidth*tlog.HashSize {
			s.remember(place{tile.L, tile.N}, read[i])
		}
	}
	return data, nil
}

// remember keeps a whole tile, in the place of any other where there are too many.
func (s *shared) remember(at place, data []byte) {
	for other := range s.tiles {
		if len(s.tiles) < mostTiles {
			break
		}
		delete(s.tiles, other)
	}
	s.tiles[at] = data
}
