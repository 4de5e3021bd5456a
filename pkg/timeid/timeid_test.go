package timeid_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/timeid"
)

func TestAnIDHasTheTimeThatItWasGivenAndIsOtherwiseWhatItWas(t *testing.T) {
	t.Parallel()
	fresh := uuid.Must(uuid.NewV7())
	for _, at := range []time.Time{
		time.UnixMilli(0),
		time.Date(2026, 11, 23, 9, 30, 0, 123_456_789, time.FixedZone("", 3600)),
		time.Now().AddDate(-1, 0, 0),
		time.Now().AddDate(1, 0, 0),
		time.UnixMilli(1<<48 - 1),
	} {
		id := timeid.At(fresh, at)
		require.Equal(t, uuid.Version(7), id.Version())
		require.Equal(t, fresh[6:], id[6:])
		got, has := timeid.Of(id)
		require.True(t, has)
		require.Equal(t, at.UTC().Truncate(time.Millisecond), got)
	}
}

func TestTheTimeIsThatOfRFC9562(t *testing.T) {
	t.Parallel()
	got, has := timeid.Of(uuid.MustParse("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")) // appendix A.6
	require.True(t, has)
	require.Equal(t, time.Date(2022, 2, 22, 19, 22, 22, 0, time.UTC), got)
}

func TestAnIDOfAnotherVersionHasNoTimeAndGetsNone(t *testing.T) {
	t.Parallel()
	for _, id := range []uuid.UUID{uuid.Nil, uuid.New(), uuid.Must(uuid.NewV6())} {
		_, has := timeid.Of(id)
		require.False(t, has)
		require.Equal(t, id, timeid.At(id, time.Now()))
	}
}
