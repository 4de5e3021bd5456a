package paging_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/paging"
)

func TestOneMoreThanTheLimitTellsWhereTheNextPageBegins(t *testing.T) {
	t.Parallel()
	total := paging.Total{Items: 9, Estimate: true}
	place := func(at int) paging.Position {
		return paging.Position{Time: time.UnixMicro(int64(at)), ID: uuid.UUID{byte(at)}}
	}
	second := place(8)
	for name, test := range map[string]struct {
		fetched, shown []int
		next           *paging.Position
	}{
		"nothing":                 {nil, nil, nil},
		"less than the limit":     {[]int{9}, []int{9}, nil},
		"as many as the limit":    {[]int{9, 8}, []int{9, 8}, nil},
		"one more than the limit": {[]int{9, 8, 7}, []int{9, 8}, &second},
	} {
		require.Equal(t, paging.Listing[int]{Items: test.shown, Total: total, Next: test.next},
			paging.Cut(test.fetched, 2, total, place), name)
	}
}
