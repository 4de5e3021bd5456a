package load

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAStormDoesNotWaitForAnswers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var asked atomic.Int64
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) }) // before the server is closed, which waits for its handlers
	storm, err := StartStorm(t.Context(), StormPlan{
		Address: address, Requests: [][]byte{get("/")}, Hasty: 2, HangUp: 20 * time.Millisecond,
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return asked.Load() > 10 }, 20*time.Second, time.Millisecond, "nothing is ever answered")
	tally := storm.Stop()
	require.Equal(t, tally.Sent, tally.Unanswered)
	require.Greater(t, tally.Sent, int64(10))
	require.Empty(t, tally.Answers)
}

func TestAStormCountsWhatItIsAnswered(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if served.Add(1)%2 == 0 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	storm, err := StartStorm(t.Context(), StormPlan{
		Address: address, Requests: [][]byte{get("/a"), get("/b")}, Patient: 3, Patience: 20 * time.Second,
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return storm.Sent() > 50 }, 20*time.Second, time.Millisecond)
	tally := storm.Stop()
	require.Equal(t, served.Load(), tally.Sent, "what was sent is waited for")
	require.Zero(t, tally.Unanswered)
	require.Equal(t, tally.Sent, tally.Answers[200]+tally.Answers[429])
	require.InDelta(t, tally.Answers[200], tally.Answers[429], 1)
}

func TestAStormSaysThatNobodyListens(t *testing.T) {
	t.Parallel()
	_, err := StartStorm(t.Context(), StormPlan{})
	require.Error(t, err)
	storm, err := StartStorm(t.Context(), StormPlan{
		Address: "127.0.0.1:1", Requests: [][]byte{get("/")}, Hasty: 1, HangUp: 10 * time.Millisecond,
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return storm.noDial.Load() > 2 }, 20*time.Second, time.Millisecond)
	tally := storm.Stop()
	require.Zero(t, tally.Sent)
	require.Greater(t, tally.NoDial, int64(2))
}

func TestOneRequestHasAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("here")) })
	status, body, err := Once(t.Context(), address, get("/"), 20*time.Second)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, "here", string(body))
	_, _, err = Once(t.Context(), "127.0.0.1:1", get("/"), time.Second)
	require.ErrorContains(t, err, "connect")
}
