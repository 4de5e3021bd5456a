package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentilesAreNearestRanks(t *testing.T) {
	t.Parallel()
	var hundred Latencies
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, row := range []struct {
		of   Latencies
		p    float64
		want time.Duration
	}{
		{hundred, 50, 50}, {hundred, 95, 95}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred, 0, 1}, {hundred, 99.5, 100},
		{Latencies{7}, 50, 7}, {Latencies{7}, 99, 7}, {Latencies{1, 9}, 50, 1}, {Latencies{1, 9}, 51, 9}, {nil, 99, 0},
	} {
		require.Equal(t, row.want, row.of.Percentile(row.p), "p%v of %d", row.p, len(row.of))
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 2, Median([]float64{3, 1, 2}), 0)
	require.InDelta(t, 2.5, Median([]float64{4, 1, 2, 3}), 0)
	require.Zero(t, Median(nil))
}

func TestAHeadSaysStatusAndLength(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		head           string
		status, length int
		ok             bool
	}{
		"a usual one":       {"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 12\r\nX: y\r\n", 200, 12, true},
		"length comes last": {"HTTP/1.1 401 Unauthorized\r\nX: y\r\nContent-Length: 0\r\n", 401, 0, true},
		"no length":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", 200, 0, false},
		"a length of words": {"HTTP/1.1 200 OK\r\nContent-Length: many\r\n", 200, 0, false},
		"a negative length": {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n", 200, -1, false},
		"another protocol":  {"SMTP/1.1 200 OK\r\nContent-Length: 1\r\n", 0, 0, false},
		"an odd status":     {"HTTP/1.1 abc OK\r\nContent-Length: 1\r\n", 0, 0, false},
		"too short":         {"HTTP/1.1 2", 0, 0, false},
	} {
		status, length, ok := parseHead([]byte(row.head))
		require.Equal(t, row.ok, ok, name)
		if ok {
			require.Equal(t, [2]int{row.status, row.length}, [2]int{status, length}, name)
		}
	}
}

// serve runs a handler and answers its address.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func get(path string) []byte { return []byte("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n") }

func wantOK(status int, body []byte) error {
	if status != http.StatusOK {
		return fmt.Errorf("%d %s", status, body)
	}
	return nil
}

func TestEveryKindOfAnswerIsReadOnOneConnection(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("large ", bufferBytes)
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			_, _ = w.Write([]byte(large)) // chunked, and larger than the buffer
		case "/length":
			w.Header().Set("Content-Length", fmt.Sprint(len(large)))
			_, _ = w.Write([]byte(large))
		case "/refused":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			_, _ = w.Write([]byte("small"))
		}
	})
	c, err := dial(t.Context(), address, time.Now().Add(10*time.Second))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	for range 2 {
		for path, want := range map[string]string{"/": "small", "/large": large, "/length": large, "/refused": ""} {
			status, body, err := c.roundTrip(get(path))
			require.NoError(t, err)
			require.Equal(t, want, string(body), path)
			require.Equal(t, path == "/refused", status == http.StatusUnauthorized, path)
		}
	}
}

func TestAnAnswerInPiecesIsPutTogether(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 1024))
		for _, piece := range []string{"HTTP/1.1 200 OK\r\nContent-", "Length: 10\r\n\r", "\nhello", "world"} {
			_, _ = c.Write([]byte(piece))
		}
	}()
	c, err := dial(t.Context(), listener.Addr().String(), time.Now().Add(10*time.Second))
	require.NoError(t, err)
	status, body, err := c.roundTrip(get("/"))
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, "helloworld", string(body))
}

func TestALoadWithALimitSendsEveryRequestInTurn(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{}
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path]++
	})
	running, err := Start(t.Context(), Plan{
		Address: address, Connections: 3, Requests: [][]byte{get("/a"), get("/b")}, Check: wantOK,
		Limit: 10, Sample: 5, Patience: 10 * time.Second,
	})
	require.NoError(t, err)
	result, err := running.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 10, result.Total)
	require.Equal(t, 10, result.Answered, "all of it is measured")
	require.Positive(t, result.Elapsed)
	require.Len(t, result.Samples, 2)
	require.Equal(t, map[string]int{"/a": 5, "/b": 5}, seen)
}

func TestOnlyWhatIsAnsweredWhileMeasuringCounts(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	address := serve(t, func(http.ResponseWriter, *http.Request) { served.Add(1) })
	running, err := Start(t.Context(), Plan{
		Address: address, Connections: 2, Requests: [][]byte{get("/")}, Check: wantOK, Patience: 30 * time.Second,
	})
	require.NoError(t, err)
	until := func(count int64) {
		require.Eventually(t, func() bool { return running.Done() >= count }, 20*time.Second, time.Millisecond)
	}
	until(10)
	before := running.Done()
	running.Measure()
	until(before + 50)
	running.Pause()
	until(running.Done() + 10)
	result, err := running.Stop()
	require.NoError(t, err)
	require.Equal(t, served.Load(), result.Total, "every request that was sent was waited for")
	require.GreaterOrEqual(t, result.Answered, 50)
	require.Less(t, int64(result.Answered), result.Total)
	require.Positive(t, result.PerSecond())
	require.Positive(t, result.Latencies.Percentile(99))
}

func TestAWrongAnswerEndsTheLoad(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if served.Add(1) == 5 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	running, err := Start(t.Context(), Plan{
		Address: address, Connections: 2, Requests: [][]byte{get("/")}, Check: wantOK, Patience: 10 * time.Second,
	})
	require.NoError(t, err)
	_, err = running.Wait()
	require.ErrorContains(t, err, "429")
	require.True(t, running.Failed())
}

func TestALoadThatCannotBeginSaysSo(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Plan{})
	require.Error(t, err)
	_, err = Start(t.Context(), Plan{Address: "127.0.0.1:1", Connections: 1, Requests: [][]byte{get("/")}, Patience: time.Second})
	require.ErrorContains(t, err, "connect")
}

func TestALoadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	address := serve(t, func(http.ResponseWriter, *http.Request) {})
	ctx, cancel := context.WithCancel(t.Context())
	running, err := Start(ctx, Plan{
		Address: address, Connections: 2, Requests: [][]byte{get("/")}, Check: wantOK, Patience: 30 * time.Second,
	})
	require.NoError(t, err)
	cancel()
	_, err = running.Wait()
	require.True(t, errors.Is(err, context.Canceled), err)
}
