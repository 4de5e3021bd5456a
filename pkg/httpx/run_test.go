package httpx_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/httpx"
)

// running is a server with sockets.
type running struct {
	*bundle
	stop   context.CancelFunc
	result chan error
	client *http.Client
}

func run(t *testing.T, prepare func(*bundle), change ...func(*httpx.Config, *httpx.Options)) *running {
	t.Helper()
	b := setup(t, change...)
	if prepare != nil {
		prepare(b)
	}
	require.Empty(t, b.PublicAddr())
	require.NoError(t, b.Listen())
	require.NoError(t, b.Listen(), "a second call does nothing")
	ctx, stop := context.WithCancel(t.Context())
	r := &running{bundle: b, stop: stop, result: make(chan error, 1), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
	go func() { r.result <- b.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		r.client.CloseIdleConnections()
	})
	return r
}

func (r *running) do(t *testing.T, method, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("{}"))
	if err != nil {
		return nil, err
	}
	return r.client.Do(req)
}

func (r *running) fetch(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	res, err := r.do(t, http.MethodGet, url)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	return res, readAll(t, res.Body)
}

func (r *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.result:
		return err
	case <-time.After(20 * time.Second):
		require.Fail(t, "the server did not stop")
		return nil
	}
}

func TestAStoppedServerFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	started, release := make(chan struct{}), make(chan struct{})
	r := run(t, func(b *bundle) {
		b.Public().GET("/slow", func(c *gin.Context) {
			close(started)
			<-release
			require.NoError(t, c.Request.Context().Err(), "the request is not cancelled by the shutdown")
			c.String(http.StatusOK, "done")
		})
	}, func(c *httpx.Config, _ *httpx.Options) { c.DrainDelay = 500 * time.Millisecond })
	public, internal := "http://"+r.PublicAddr(), "http://"+r.InternalAddr()

	res, _ := r.fetch(t, internal+"/readyz")
	require.Equal(t, http.StatusOK, res.StatusCode)

	slow := make(chan string, 1)
	go func() {
		_, body := r.fetch(t, public+"/slow")
		slow <- body
	}()
	<-started
	r.stop()

	require.Eventually(t, func() bool {
		res, _ := r.fetch(t, internal+"/readyz")
		return res.StatusCode == http.StatusServiceUnavailable
	}, 5*time.Second, 5*time.Millisecond, "not ready at once")
	res, _ = r.fetch(t, public+"/healthz")
	require.Equal(t, http.StatusOK, res.StatusCode, "still serving, until load balancers have noticed")
	require.True(t, res.Close, "but not for long")

	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", r.PublicAddr(), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, 5*time.Second, 10*time.Millisecond, "then no new connections")
	select {
	case err := <-r.result:
		require.Fail(t, "the server stopped with a request under way", "%v", err)
	default:
	}
	close(release)
	require.Equal(t, "done", <-slow)
	require.NoError(t, r.wait(t))
}

func TestNoRequestFailsDuringAStop(t *testing.T) {
	t.Parallel()
	r := run(t, func(b *bundle) {
		b.Public().POST("/", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	}, func(c *httpx.Config, _ *httpx.Options) { c.DrainDelay = time.Second })

	var clients sync.WaitGroup
	served := make([]int, 8)
	for i := range served {
		clients.Go(func() {
			for {
				res, err := r.do(t, http.MethodPost, "http://"+r.PublicAddr()+"/")
				if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
					return // the socket is closed; nobody has read the request
				}
				if err != nil {
					t.Errorf("a request was lost: %v", err)
					return
				}
				_ = res.Body.Close()
				if served[i]++; i == 0 && served[i] == 20 {
					r.stop()
				}
			}
		})
	}
	clients.Wait()
	require.NoError(t, r.wait(t))
	require.Greater(t, served[0], 20, "requests went on after the stop")
}

func TestAConnectionThatLiesIdleIsServedOnceMoreDuringAStop(t *testing.T) {
	t.Parallel()
	r := run(t, nil, func(c *httpx.Config, _ *httpx.Options) { c.DrainDelay = 5 * time.Second })
	// As a proxy keeps them: each has been used, and is kept for the next request.
	ask := func(conn net.Conn, answers *bufio.Reader) *http.Response {
		_, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(answers, nil)
		require.NoError(t, err, "a request met a closed connection")
		_ = readAll(t, res.Body)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
		return res
	}
	var conns [2]net.Conn
	var answers [2]*bufio.Reader
	for i := range conns {
		var err error
		conns[i], err = net.Dial("tcp", r.PublicAddr())
		require.NoError(t, err)
		defer func() { _ = conns[i].Close() }()
		require.NoError(t, conns[i].SetDeadline(time.Now().Add(20*time.Second)))
		answers[i] = bufio.NewReader(conns[i])
		require.False(t, ask(conns[i], answers[i]).Close)
	}
	r.stop()
	require.Eventually(t, func() bool {
		res, _ := r.fetch(t, "http://"+r.InternalAddr()+"/readyz")
		return res.StatusCode == http.StatusServiceUnavailable
	}, 4*time.Second, 5*time.Millisecond)
	require.True(t, ask(conns[0], answers[0]).Close, "and told to come no more")
	for i := range conns {
		_, err := answers[i].ReadByte()
		require.ErrorIs(t, err, io.EOF, "the other one is closed when the delay is over, with nothing lost")
	}
	require.NoError(t, r.wait(t))
}

func TestARequestThatNeverEndsIsCut(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	r := run(t, func(b *bundle) {
		b.Public().GET("/stuck", func(c *gin.Context) {
			close(started)
			<-c.Request.Context().Done()
		})
	}, func(c *httpx.Config, _ *httpx.Options) { c.ShutdownTimeout = 100 * time.Millisecond })
	failed := make(chan error, 1)
	go func() {
		res, err := r.do(t, http.MethodGet, "http://"+r.PublicAddr()+"/stuck")
		if err == nil {
			_ = res.Body.Close()
		}
		failed <- err
	}()
	<-started
	r.stop()
	require.ErrorContains(t, r.wait(t), "requests were cut")
	require.Error(t, <-failed)
}

func TestAClientThatLeavesIsNoFailureOfOurs(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	r := run(t, func(b *bundle) {
		b.Public().GET("/wait", handler(func(c *gin.Context) error {
			close(started)
			<-c.Request.Context().Done()
			return c.Request.Context().Err()
		}))
	})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-started
		leave()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.PublicAddr()+"/wait", nil)
	require.NoError(t, err)
	res, err := r.client.Do(req)
	if err == nil {
		_ = res.Body.Close()
	}
	require.Error(t, err)
	require.Eventually(t, func() bool { return len(r.logs.Lines(t, "request")) == 1 }, 5*time.Second, 10*time.Millisecond)
	line := r.logs.Lines(t, "request")[0]
	require.InDelta(t, 499, line["status"], 0)
	require.Equal(t, "INFO", line["level"])
}

func TestAnAddressThatIsTakenIsAnError(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	for name, change := range map[string]func(*httpx.Config, *httpx.Options){
		"public":   func(c *httpx.Config, _ *httpx.Options) { c.PublicAddr = r.PublicAddr() },
		"internal": func(c *httpx.Config, _ *httpx.Options) { c.InternalAddr = r.PublicAddr() },
	} {
		b := setup(t, change)
		require.ErrorContains(t, b.Run(t.Context()), name)
		require.Empty(t, b.PublicAddr(), "no socket is left open")
		require.NoError(t, b.Close())
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.Listen())
	addr := b.PublicAddr()
	require.NoError(t, b.Close())
	_, err := net.DialTimeout("tcp", addr, time.Second)
	require.Error(t, err, "a server that never ran leaves no socket")
}

func TestAServerThatWasClosedStillStops(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	r.fetch(t, "http://"+r.PublicAddr()+"/healthz")
	require.NoError(t, r.Close())
	require.NoError(t, r.Close(), "closing twice is harmless")
	r.stop()
	require.NoError(t, r.wait(t))
}

func TestARequestForNoPathIsAnsweredByUsAsWell(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	for _, address := range []string{r.PublicAddr(), r.InternalAddr()} {
		var dialer net.Dialer
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		_, err = conn.Write([]byte("OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
		require.NoError(t, err)
		answer := readAll(t, conn)
		require.NoError(t, conn.Close())
		require.True(t, strings.HasPrefix(answer, "HTTP/1.1 404 "), answer)
		require.Contains(t, answer, "X-Request-Id: ")
		require.Contains(t, answer, "X-Content-Type-Options: nosniff")
		require.Contains(t, answer, `"NOT_FOUND"`)
	}
}
